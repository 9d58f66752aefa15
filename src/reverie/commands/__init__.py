"""The commands of `reverie`, one file each. `COMMANDS` has them in the order of `reverie --help`."""

from __future__ import annotations

from . import (
    ablate,
    bench,
    check_env,
    compare,
    doctor,
    dream,
    drift,
    envs,
    explain,
    export,
    import_data,
    info,
    presets,
    record,
    replay_crash,
    report,
    selftest,
    serve,
    sweep,
    train,
    trust,
    tune,
    watch,
)
from . import eval as evaluate
from .command import Command, settings_of

__all__ = ["COMMANDS", "Command", "settings_of"]

COMMANDS: dict[str, Command] = {
    module.COMMAND.name: module.COMMAND
    for module in (
        train,
        evaluate,
        presets,
        envs,
        check_env,
        selftest,
        bench,
        replay_crash,
        info,
        watch,
        doctor,
        drift,
        trust,
        explain,
        dream,
        report,
        export,
        serve,
        import_data,
        record,
        compare,
        sweep,
        ablate,
        tune,
    )
}
