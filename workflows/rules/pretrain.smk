rule pretrain:
    input:
        upstream("pretrain"),
    output:
        update(manifest("pretrain")),  # biollm replaces the whole folder at once; Snakemake must not remove it before
    params:
        made_from=made_from("pretrain"),
        command=command("pretrain"),
    threads: workflow.cores
    resources:
        mem_mb=4000,
    shell:
        "{params.command}"
