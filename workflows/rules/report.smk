rule report:
    input:
        upstream("report"),
    output:
        update(manifest("report")),  # biollm replaces the whole folder at once; Snakemake must not remove it before
    params:
        made_from=made_from("report"),
        command=command("report"),
    threads: 1
    resources:
        mem_mb=2000,
    shell:
        "{params.command}"
