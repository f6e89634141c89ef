rule expand:
    input:
        upstream("expand"),
    output:
        update(manifest("expand")),  # biollm replaces the whole folder at once; Snakemake must not remove it before
    params:
        made_from=made_from("expand"),
        command=command("expand"),
    threads: workflow.cores
    resources:
        mem_mb=3000,
    shell:
        "{params.command}"
