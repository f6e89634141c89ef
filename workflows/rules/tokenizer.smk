rule tokenizer:
    input:
        upstream("tokenizer"),
    output:
        update(manifest("tokenizer")),  # biollm replaces the whole folder at once; Snakemake must not remove it before
    params:
        made_from=made_from("tokenizer"),
        command=command("tokenizer"),
    threads: 1
    resources:
        mem_mb=2000,
    shell:
        "{params.command}"
