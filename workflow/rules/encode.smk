"""What training reads instead of videos and captions."""


rule latents:
    """
    The VAE's latents of each clip (mean and variance, so that training draws from them).

    Input: the clips, decoded as preprocess says; the VAE's weights.
    Output: a row per clip; the receipt says that they are in the store.
    """
    input:
        ancient(upstream),
        ancient(part_receipts("latents")),
    output:
        receipt("latents"),
    log:
        log_file("latents"),
    benchmark:
        benchmark_file("latents")
    conda:
        "../../environment.yml"
    threads: gather_cores("latents")
    resources:
        mem_mb=needs("mem_mb", "latents"),
        runtime=needs("runtime", "latents"),
        disk_mb=needs("disk_mb", "latents"),
        gpu=needs("gpu", "latents"),
    params:
        slice=slice_file,
        run=run_file,
        part=[],
    shell:
        "python -m cogtune latents --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain {params.part:q}"


# One part of the clips of a latents job, where `--set-scatter latents=N` cuts it; on one device.
use rule latents as latents_part with:
    input:
        ancient(upstream),
    output:
        part_receipt("latents"),
    log:
        part_log_file("latents"),
    benchmark:
        part_benchmark_file("latents")
    threads: part_cores
    params:
        part=["--part", "{part}"],


rule images:
    """
    Image to video only: noised encodings of each clip's first frame.

    Input: the clips, decoded as preprocess says; the VAE's weights.
    Output: a row per clip, with args.image_noise_draws encodings; the receipt says that they are in the store.
    """
    input:
        ancient(upstream),
        ancient(part_receipts("images")),
    output:
        receipt("images"),
    log:
        log_file("images"),
    benchmark:
        benchmark_file("images")
    conda:
        "../../environment.yml"
    threads: gather_cores("images")
    resources:
        mem_mb=needs("mem_mb", "images"),
        runtime=needs("runtime", "images"),
        disk_mb=needs("disk_mb", "images"),
        gpu=needs("gpu", "images"),
    params:
        slice=slice_file,
        run=run_file,
        part=[],
    shell:
        "python -m cogtune images --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain {params.part:q}"


# One part of the clips of an images job, where `--set-scatter images=N` cuts it; on one device.
use rule images as images_part with:
    input:
        ancient(upstream),
    output:
        part_receipt("images"),
    log:
        part_log_file("images"),
    benchmark:
        part_benchmark_file("images")
    threads: part_cores
    params:
        part=["--part", "{part}"],


rule text:
    """
    The T5 encoder's states of each caption.

    Input: the captions of the scan; T5's weights.
    Output: a row per caption; the receipt says that they are in the store.
    """
    input:
        ancient(upstream),
        ancient(part_receipts("text")),
    output:
        receipt("text"),
    log:
        log_file("text"),
    benchmark:
        benchmark_file("text")
    conda:
        "../../environment.yml"
    threads: gather_cores("text")
    resources:
        mem_mb=needs("mem_mb", "text"),
        runtime=needs("runtime", "text"),
        disk_mb=needs("disk_mb", "text"),
        gpu=needs("gpu", "text"),
    params:
        slice=slice_file,
        run=run_file,
        part=[],
    shell:
        "python -m cogtune text --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain {params.part:q}"


# One part of the captions of a text job, where `--set-scatter text=N` cuts it; on one device.
use rule text as text_part with:
    input:
        ancient(upstream),
    output:
        part_receipt("text"),
    log:
        part_log_file("text"),
    benchmark:
        part_benchmark_file("text")
    threads: part_cores
    params:
        part=["--part", "{part}"],
