rule embed:
    input:
        upstream("embed"),
    output:
        update(manifest("embed")),  # biollm replaces the whole folder at once; Snakemake must not remove it before
    params:
        made_from=made_from("embed"),
        command=command("embed"),
    threads: workflow.cores
    resources:
        mem_mb=3000,
    shell:
        "{params.command}"
