rule classify:
    input:
        upstream("classify"),
    output:
        update(manifest("classify")),  # biollm replaces the whole folder at once; Snakemake must not remove it before
    params:
        made_from=made_from("classify"),
        command=command("classify"),
    threads: workflow.cores
    resources:
        mem_mb=2000,
    shell:
        "{params.command}"
