"""What the training was good for."""


rule sample:
    """
    Videos sampled before and after training, and the controls.

    Input: the trained weights, the captions' T5 states, the VAE.
    Output: a row per video, and mp4 files to look at; the receipt says that they are in the store.
    """
    input:
        ancient(upstream),
        ancient(part_receipts("sample")),
    output:
        receipt("sample"),
    log:
        log_file("sample"),
    benchmark:
        benchmark_file("sample")
    conda:
        "../../environment.yml"
    threads: gather_cores("sample")
    resources:
        mem_mb=needs("mem_mb", "sample"),
        runtime=needs("runtime", "sample"),
        disk_mb=needs("disk_mb", "sample"),
        gpu=needs("gpu", "sample"),
    params:
        slice=slice_file,
        run=run_file,
        part=[],
    shell:
        "python -m cogtune sample --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain {params.part:q}"


# One part of the videos of a sample job, where `--set-scatter sample=N` cuts it; on one device.
use rule sample as sample_part with:
    input:
        ancient(upstream),
    output:
        part_receipt("sample"),
    log:
        part_log_file("sample"),
    benchmark:
        part_benchmark_file("sample")
    threads: part_cores
    params:
        part=["--part", "{part}"],


rule evaluate:
    """
    The metrics: VAE reconstruction, samples against their clips, retrieval and its controls.

    Input: samples, latents, the VAE.
    Output: a row per clip, metrics.json; the receipt says that they are in the store.
    """
    input:
        ancient(upstream),
        ancient(part_receipts("evaluate")),
    output:
        receipt("evaluate"),
    log:
        log_file("evaluate"),
    benchmark:
        benchmark_file("evaluate")
    conda:
        "../../environment.yml"
    threads: gather_cores("evaluate")
    resources:
        mem_mb=needs("mem_mb", "evaluate"),
        runtime=needs("runtime", "evaluate"),
        disk_mb=needs("disk_mb", "evaluate"),
        gpu=needs("gpu", "evaluate"),
    params:
        slice=slice_file,
        run=run_file,
        part=[],
    shell:
        "python -m cogtune evaluate --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain {params.part:q}"


# One part of the clips of an evaluate job, where `--set-scatter evaluate=N` cuts it; on one device.
use rule evaluate as evaluate_part with:
    input:
        ancient(upstream),
    output:
        part_receipt("evaluate"),
    log:
        part_log_file("evaluate"),
    benchmark:
        part_benchmark_file("evaluate")
    threads: part_cores
    params:
        part=["--part", "{part}"],
