"""`steelyard engines`: which local engines can run here, and which one `steelyard up` takes."""

from pathlib import Path

import click

from steelyard.cli.epilog import examples
from steelyard.cli.local_engine import asked_of
from steelyard.cli.options import data_option, json_option
from steelyard.cli.show import Show, words
from steelyard.config import load_settings
from steelyard.engines.choice import NONE, OPENVINO, choose, machine_here, possible
from steelyard.engines.leash import OFF

_COLUMNS = (
    words("Engine", "engine"),
    words("", "taken"),
    words("Possible", "possible"),
    words("Speculation", "speculation"),
    words("Why", "why"),
)
_REMOTE = (
    ("vllm, sglang", "as started", "GPU servers beside it: `steelyard engine add`"),
    (
        "remote",
        "its own",
        "any OpenAI-compatible server: `steelyard models offer`; vendors: `steelyard vendor add`",
    ),
)

_SWITCH = ": `steelyard up --speculate lookup` drafts tokens from what was there before"


@click.command("engines", epilog=examples("steelyard engines", "STEELYARD_SMALL=1 steelyard engines --json"))
@data_option
@json_option
def engines(data: Path | None, as_json: bool) -> None:
    """The engines that can serve the local model on this machine, and which one is taken."""
    settings = load_settings(data=data)
    machine = machine_here()
    asked = asked_of(settings)
    choice = None if settings.engine == NONE else choose(machine, asked)
    rows = []
    for one in possible(machine, asked):
        taken = choice is not None and choice.engine == one.name
        why = choice.why if taken and choice is not None else one.why
        rows.append(
            {
                "engine": one.name,
                "possible": one.possible,
                "taken": taken,
                "speculation": one.speculates,
                "why": why,
            }
        )
    show = Show(as_json)
    if as_json:
        facts = {"cpus": machine.cpus, "arch": machine.arch, "bf16": machine.has_bf16, "openvino": machine.openvino}
        chosen = None if choice is None else choice.engine
        show.json({"machine": facts, "engines": rows, "chosen": chosen, "speculate": settings.speculate})
        return
    rows += [
        {"engine": name, "possible": True, "taken": False, "speculation": how, "why": why} for name, how, why in _REMOTE
    ]
    told = [
        row | {"taken": "taken" if row["taken"] else "", "possible": "yes" if row["possible"] else "no"} for row in rows
    ]
    show.rows(told, _COLUMNS, "")
    if choice is not None and choice.engine == OPENVINO:
        click.echo(
            f"\n{choice.threads} threads, {choice.slots} sequences at once, {choice.cache_tokens} tokens of cache."
        )
        click.echo("What is read from the prefix cache is counted by Steelyard: OpenVINO does not tell it.")
    if choice is not None:
        click.echo(f"Speculation is {settings.speculate}{_SWITCH if settings.speculate == OFF else ''}.")
