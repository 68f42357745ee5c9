"""Options of Snakemake that would hide missing jobs: refused when it evaluates the first input function."""

PART_RULES = {f"{name}_part" for name, stage in STAGES.items() if stage.parts}
STAGE_RULES = {
    workflow.modifier.modify_rulename(name)
    for name in (*STAGES, *PART_RULES, SWEEP.name)
}


def refuse_forced_stages():
    """Raises UserError for options that start a stage's job although its receipt exists. The job would find its result in
    the store, and Snakemake 9 does not check the jobs behind it, whose ancient inputs exist: it would skip missing ones
    and end with exit code 0. `--forceall` is harmless: it starts these too.
    """
    if not workflow.is_main_process or workflow.executor_plugin is None:
        return  # no jobs are started, as with --summary
    # Snakemake has its settings only when it evaluates the input functions of rules.
    dag, execution = workflow.dag_settings, workflow.execution_settings
    forced = {
        "--forcerun": dag.forcerun,
        "--force": dag.targets if dag.forcetargets else (),
    }
    for option, targets in forced.items():
        for target in sorted(map(str, targets)):
            if target in STAGE_RULES or "/.receipts/" in target:
                raise UserError(
                    f"{option} {target}: not supported, because results are found by their keys. Run `cogtune store "
                    f"drop KEY` instead (`cogtune store list` shows the keys), then snakemake without {option}"
                )
    skips = (
        "it restarts finished jobs, and Snakemake would skip missing jobs behind them"
    )
    triggers = sorted(
        trigger.name.lower().replace("_", "-") for trigger in dag.rerun_triggers
    )
    if set(triggers) - {"mtime"}:
        raise UserError(
            f"--rerun-triggers {' '.join(triggers)}: not supported, because {skips}. Put `rerun-triggers: [mtime]` into "
            f"your profile, or add --rerun-triggers mtime"
        )
    if dag.force_incomplete and not execution.ignore_incomplete:
        raise UserError(
            f"--rerun-incomplete: not supported, because {skips}. Receipts are never incomplete: add "
            f"--ignore-incomplete, or put `ignore-incomplete: true` into your profile"
        )


def refuse_selected_stages(name):
    """Raises UserError for `--until STAGE` and `--omit-from STAGE` where a checkpoint before that stage is left to do:
    Snakemake picks the jobs of the stage before it runs anything, finds none, and would end without a word.
    """
    if not files_can_exist(WORKSPACE, name):
        first, stages = "demo_clips", set(STAGES) | PART_RULES
    elif all(path.exists() for path in WORKSPACE.scan_receipts(name)):
        return
    else:
        first, stages = "scan", set(STAGES) - {"scan"} | PART_RULES
    dag = workflow.dag_settings
    for option, selected in {
        "--until": dag.until,
        "--omit-from": dag.omit_from,
    }.items():
        if not (named := sorted(stages.intersection(selected))):
            continue
        raise UserError(
            f"{option} {' '.join(named)}: the jobs of {name} are known only after {first}, which is not done; run "
            f"`snakemake --until {first}` first, then this command again"
        )
