"""The training and what it leaves."""


rule train:
    """
    Training with DeepSpeed on `ranks` devices; resumes from its newest valid checkpoint.

    Under Slurm it runs on all nodes of its job (resources nodes, tasks and mpi="srun" in the profile; tasks = ranks), and
    requeues itself when it is pre-empted, at most max_restarts times.

    Input: latents, images and text; the weights of args.load.
    Output: checkpoints, the log, and final weights; the receipt says that they are in the store.
    """
    input:
        ancient(upstream),
    output:
        receipt("train"),
    log:
        log_file("train"),
    benchmark:
        benchmark_file("train")
    conda:
        "../../environment.yml"
    threads: all_cores
    resources:
        mem_mb=needs("mem_mb", "train"),
        runtime=needs("runtime", "train"),
        disk_mb=needs("disk_mb", "train"),
        gpu=needs("gpu", "train"),
        max_restarts=100,
    params:
        slice=slice_file,
        run=run_file,
    shell:
        "python -m cogtune train --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain --max-restarts {resources.max_restarts:q}"


rule export:
    """
    The trained weights in the formats of args.export_formats.

    Input: the final weights of the training.
    Output: weight files for SAT, diffusers, PEFT or ComfyUI, each compared with what was trained; the receipt says that they are in the store.
    """
    input:
        ancient(upstream),
    output:
        receipt("export"),
    log:
        log_file("export"),
    benchmark:
        benchmark_file("export")
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=needs("mem_mb", "export"),
        runtime=needs("runtime", "export"),
        disk_mb=needs("disk_mb", "export"),
    params:
        slice=slice_file,
        run=run_file,
    shell:
        "python -m cogtune export --slice {params.slice:q} --run {params.run:q} --receipt {output:q} --log {log:q} --plain"
