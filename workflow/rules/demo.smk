localrules:
    demo_clips,


checkpoint demo_clips:
    """
    The demo's data set, text encoder and VAE, where config.yaml says `demo_data: true`.

    Input: the scripts of demo/ and the VAE's weights there. Output: data/demo, and the marker that it is complete.
    """
    input:
        DEMO_SOURCES[1:],
        script=DEMO_SOURCES[0],
    output:
        DEMO_CLIPS,
    log:
        f"{RESULTS}/.logs/demo_clips.log",
    conda:
        "../../environment.yml"
    threads: 1
    shell:
        "python {input.script:q} 2>&1 | tee {log:q}"
