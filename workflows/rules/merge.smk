rule merge:
    input:
        upstream("merge"),
    output:
        update(manifest("merge")),  # biollm replaces the whole folder at once; Snakemake must not remove it before
    params:
        made_from=made_from("merge"),
        command=command("merge"),
    threads: 1
    resources:
        mem_mb=2000,
    shell:
        "{params.command}"
