"""From files to frames."""


checkpoint scan:
    """
    What is there: every clip and caption listed, hashed and checked, bad ones rejected with a reason.

    Input: the folders of args.train_data and args.valid_data (their listing is in the key).
    Output: the manifest, the rejects, and the digests from which all later keys follow; the receipt says that they are in the store.
    """
    output:
        receipt("scan"),
    log:
        log_file("scan"),
    benchmark:
        benchmark_file("scan")
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=needs("mem_mb", "scan"),
        runtime=needs("runtime", "scan"),
        disk_mb=needs("disk_mb", "scan"),
    params:
        slice=slice_file,
        run=known_run_file,
    shell:
        "python -m cogtune scan --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain"


rule preprocess:
    """
    What is used of each clip: frames chosen, decoded, resized and cropped, with the reason where that fails.

    Input: the clips of the scan.
    Output: a row per clip: frame indices, size, thumbnail; the receipt says that they are in the store.
    """
    input:
        ancient(upstream),
        ancient(part_receipts("preprocess")),
    output:
        receipt("preprocess"),
    log:
        log_file("preprocess"),
    benchmark:
        benchmark_file("preprocess")
    conda:
        "../../environment.yml"
    threads: gather_cores("preprocess")
    resources:
        mem_mb=needs("mem_mb", "preprocess"),
        runtime=needs("runtime", "preprocess"),
        disk_mb=needs("disk_mb", "preprocess"),
    params:
        slice=slice_file,
        run=run_file,
        part=[],
    shell:
        "python -m cogtune preprocess --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain {params.part:q}"


# One part of the clips of a preprocess job, where `--set-scatter preprocess=N` cuts it; on its share of the cores.
use rule preprocess as preprocess_part with:
    input:
        ancient(upstream),
    output:
        part_receipt("preprocess"),
    log:
        part_log_file("preprocess"),
    benchmark:
        part_benchmark_file("preprocess")
    threads: part_cores
    params:
        part=["--part", "{part}"],
