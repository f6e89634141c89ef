rule finetune:
    input:
        upstream("finetune"),
    output:
        update(manifest("finetune")),  # biollm replaces the whole folder at once; Snakemake must not remove it before
    params:
        made_from=made_from("finetune"),
        command=command("finetune"),
    threads: workflow.cores
    resources:
        mem_mb=4000,
    shell:
        "{params.command}"
