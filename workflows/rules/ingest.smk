rule ingest:
    input:
        upstream("ingest"),
    output:
        update(manifest("ingest")),  # biollm replaces the whole folder at once; Snakemake must not remove it before
    params:
        made_from=made_from("ingest"),
        command=command("ingest"),
    threads: 1
    resources:
        mem_mb=2000,
    shell:
        "{params.command}"
