"""`steelyard engine`: vLLM and SGLang servers on GPUs, started or adopted and looked after by `steelyard up`.

Writes what is wanted of an engine; the platform sees it within a second. Keys are made and sealed here.
"""

import os
import re
import secrets
import shlex
import time
from collections.abc import Callable
from typing import Any

import click
import msgspec

from steelyard.catalog.credentials import credentials
from steelyard.catalog.store import models, tariffs_by_subject
from steelyard.cli.desk import Desk
from steelyard.cli.directory import is_held
from steelyard.cli.epilog import examples
from steelyard.cli.listing import Listing
from steelyard.cli.options import at_desk
from steelyard.cli.show import Column, Show, count, energy_text, percent_text, words
from steelyard.kernel import limits
from steelyard.kernel.address import address_of
from steelyard.kernel.clock import NS_PER_S, iso_from_ns
from steelyard.kernel.engines import ADDED, Energy, EngineKind, EngineSeen, EngineSpec, EngineState, Wanted, state_at
from steelyard.kernel.errors import CallerError, StartError, bad_request
from steelyard.processes import engine_files
from steelyard.processes.engine_command import check_extra, check_speculative, start_of
from steelyard.upstream.sealed import Master, shown_of

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_LOOK_S = 0.1
_ENERGY = {
    Energy.NVML: "measured (NVML, the whole GPUs)",
    Energy.RAPL: "measured (RAPL, the whole CPU package)",
    Energy.MODELLED: "modelled: busy time × the watts of its cost tariff; nothing is measured",
}
_ROWS = (
    words("Engine", "name"),
    words("Kind", "kind"),
    words("Model", "model"),
    words("State", "state"),
    words("Address", "address"),
    count("Running", "running"),
    count("Waiting", "waiting"),
    Column("Busy", lambda row: percent_text(row["busy_ns"], row["up_ns"]), right=True),
    words("Energy", "energy"),
)


@click.group(
    cls=Listing,
    epilog=examples(
        "steelyard engine add vllm --model Qwen/Qwen3-8B --as qwen3-8b --gpus 0",
        "steelyard engine add sglang --model Qwen/Qwen3-8B --as qwen3-8b --adopt http://10.0.0.7:30000",
        "steelyard engine show vllm",
        "steelyard engine drain vllm --reason 'driver update'",
    ),
)
def engine() -> None:
    """GPU engines: vLLM and SGLang servers that are started, or adopted, and looked after."""


@engine.command(
    "add",
    epilog=examples(
        "steelyard engine add vllm --model Qwen/Qwen3-8B --as qwen3-8b --gpus 0,1 -- --max-num-seqs 256",
        "steelyard engine add vllm --model XiaomiMiMo/MiMo-7B-RL --speculative-config "
        '\'{"method":"mtp","num_speculative_tokens":1}\'',
        "steelyard engine add sglang --name two --model qwen3-8b --adopt http://127.0.0.1:30000",
    ),
    context_settings={"ignore_unknown_options": False},
)
@click.argument("kind", type=click.Choice([one.value for one in ADDED]))
@click.argument("extra", nargs=-1, type=click.UNPROCESSED)
@click.option("--model", required=True, help="What the server loads: a path, or a repository's name.")
@click.option("--as", "ours", help="What customers ask for, if not the last part of --model.")
@click.option("--name", help="The engine's name, by which its cost tariff knows it, if not KIND.")
@click.option("--adopt", metavar="URL", help="A server that runs already: it is used and watched, never stopped.")
@click.option("--key-env", metavar="VARIABLE", help="With --adopt: where its key is.")
@click.option("--gpus", metavar="LIST", help="Which GPUs (CUDA_VISIBLE_DEVICES), such as 0,1; several share the model.")
@click.option("--context", "context_tokens", type=click.IntRange(1), help="Tokens of context, if not the model's.")
@click.option("--speculative-config", "speculative", metavar="JSON", help="vLLM's speculation, such as a model's MTP.")
@click.option("--command", metavar="WORDS", help="Start this instead of `vllm serve`, with the same arguments.")
@click.option("--start-s", type=click.IntRange(1), help="It may take so many seconds to load.")
@click.option("--no-wait", is_flag=True, help="Do not wait until it runs.")
@at_desk
def engine_add(desk: Desk, show: Show, /, kind: str, no_wait: bool, **asked: Any) -> None:
    """Run a model on GPUs here, or use a server that runs already. `-- ARGUMENTS` are passed on to the server.

    It is sold once the model has a price and the engine a cost tariff: `steelyard prices load`.
    """
    spec, key = _spec_of(desk, EngineKind(kind), asked)
    if key:
        desk.command("credential.set", {"upstream": spec.name, "token": spec.token, "shown": shown_of(key)})
    engine_files.put_spec(desk.data, spec)
    if not spec.adopted and not show.as_json:
        show.line(start_of(spec, 0, key, "CONFIG").shown.replace("--port 0", "--port PORT"))
    _say_what_is_missing(desk, show, spec)
    if no_wait or not is_held(desk.data):
        when = "within a second" if is_held(desk.data) else "with the next `steelyard up`"
        show.say(f"{spec.name} is added; it starts {when}.", _row(desk, spec))
        return
    _await(desk, show, spec, lambda seen: seen.state in {EngineState.RUNNING, EngineState.FAILED})


@engine.command("list")
@at_desk
def engine_list(desk: Desk, show: Show) -> None:
    """Every engine with its state, its load and how much of the time it was busy; the local one first."""
    rows = [_row(desk, spec) for spec in (*engine_files.ours(desk.data), *engine_files.specs(desk.data).values())]
    show.rows(rows, _ROWS, "No engine is added: steelyard engine add vllm --model MODEL")


@engine.command("show")
@click.argument("name")
@at_desk
def engine_show(desk: Desk, show: Show, name: str) -> None:
    """All that is known of the engine NAME: its command, its load, its tokens, its drafts, its energy."""
    own = {spec.name: spec for spec in engine_files.ours(desk.data)}
    row = _row(desk, own.get(name) or engine_files.spec(desk.data, name))
    if show.as_json:
        show.json(row)
        return
    for title, said in _lines(row):
        show.line(f"{title + ':':<14}{said}")


@engine.command("drain")
@click.argument("name")
@click.option("--reason", default="", help="Why, for the log.")
@at_desk
def engine_drain(desk: Desk, show: Show, name: str, reason: str) -> None:
    """Send nothing new to NAME, let its answers end, then stop it. `engine restart` brings it back."""
    spec = engine_files.drain(desk.data, name, reason)
    show.say(f"{name} is drained: nothing new is sent to it.", _row(desk, spec))


@engine.command("restart")
@click.argument("name")
@click.option("--reason", default="", help="Why, for the log.")
@at_desk
def engine_restart(desk: Desk, show: Show, name: str, reason: str) -> None:
    """Drain NAME and start it anew; an adopted one is looked at anew."""
    spec = engine_files.restart(desk.data, name, reason)
    show.say(f"{name} is started anew once its answers have ended.", _row(desk, spec))


@engine.command("remove")
@click.argument("name")
@at_desk
def engine_remove(desk: Desk, show: Show, name: str) -> None:
    """Drain NAME, stop it if it was started here, and forget it and its key. Its costs stay in the books."""
    engine_files.spec(desk.data, name)
    if is_held(desk.data):
        engine_files.change(desk.data, name, wanted=Wanted.REMOVED, reason="removed")
    else:
        desk.command("vendor.remove", {"upstream": name})
        engine_files.drop_spec(desk.data, name)
    show.say(f"{name} is removed.", {"name": name})


def _spec_of(desk: Desk, kind: EngineKind, asked: dict[str, Any]) -> tuple[EngineSpec, str]:
    """The engine that is asked for, and its key in the clear. Raises CallerError or StartError."""
    known = engine_files.specs(desk.data)
    name, adopt = asked["name"] or kind.value, asked["adopt"] or ""
    _refuse(desk, known, name, asked)
    check_extra(kind, asked["extra"])
    check_speculative(kind, asked["speculative"] or "")
    if adopt:
        adopt = adopt.rstrip("/")
        try:
            address_of(adopt)
        except ValueError as error:
            raise bad_request(f"--adopt {error}.", "adopt") from None
    try:
        command = tuple(shlex.split(asked["command"] or ""))
    except ValueError as error:
        raise bad_request(f"--command cannot be read: {error}.", "command") from None
    model = asked["ours"] or asked["model"].rstrip("/").rpartition("/")[2]
    if not model:
        raise bad_request("Name what customers ask for: --as NAME, or a --model that ends with a name.", "model")
    key = _adopted_key(asked["key_env"]) if adopt else secrets.token_hex(32)
    spec = EngineSpec(
        name=name,
        kind=kind,
        model=model,
        weights=asked["model"],
        address=adopt,
        gpus=tuple(one.strip() for one in (asked["gpus"] or "").split(",") if one.strip()),
        context_tokens=asked["context_tokens"] or 0,
        speculative=asked["speculative"] or "",
        extra=tuple(asked["extra"]),
        command=command,
        token=Master(desk.data.master).seal(key) if key else "",
        start_s=asked["start_s"] or 0,
        reason="added",
    )
    return spec, key


def _refuse(desk: Desk, known: dict[str, EngineSpec], name: str, asked: dict[str, Any]) -> None:
    if not desk.data.root.is_dir():
        raise StartError(f"There are no books in {desk.data.root}. Start the platform with 'steelyard up'.")
    if not _NAME.fullmatch(name) or len(name) > limits.NAME_CHARACTERS_MAX:
        raise bad_request("--name has small letters, digits, dots and hyphens only.", "name")
    if name in known or name in engine_files.OURS:
        raise CallerError(
            409, "engine_exists", f"There is an engine {name!r} already. Remove it, or give another --name."
        )
    with desk.read() as connection:
        offered = {offer.upstream for model in models(connection).values() for offer in model.offers}
        if name in offered | credentials(connection).keys():
            raise CallerError(
                409,
                "upstream_exists",
                f"Something else is offered at {name!r}, or a key of it is kept: the engine would take its place. "
                f"Give another --name, or remove it: steelyard vendor remove {name}",
            )
    if len(known) >= limits.ENGINES_MAX:
        raise bad_request(f"There are {limits.ENGINES_MAX} engines already. Remove one.", "name")
    for option in ("command", "speculative", "extra", "start_s") if asked["adopt"] else ("key_env",):
        if asked[option]:
            given = "the arguments behind --" if option == "extra" else "--" + option.replace("_", "-")
            raise bad_request(f"{given}: not {'with' if asked['adopt'] else 'without'} --adopt.", option)


def _adopted_key(variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise StartError(f"The environment variable {variable} is not set.")
    return key


def _say_what_is_missing(desk: Desk, show: Show, spec: EngineSpec) -> None:
    if show.as_json:
        return
    with desk.read() as connection:
        price, cost = (spec.model in tariffs_by_subject(connection, "price")), tariffs_by_subject(connection, "cost")
    if not price:
        show.line(f"Not sold yet: {spec.model} has no price. Load one: steelyard prices load FILE")
    if spec.name not in cost:
        show.line(f"Not sold yet: {spec.name} has no [[cost]] (gpu_hour, watts_per_busy_gpu, kwh). Load one.")


def _await(desk: Desk, show: Show, spec: EngineSpec, done: Callable[[EngineSeen], bool]) -> None:
    """Until the engine is where it should be. Raises StartError when it failed; it is tried again all the same."""
    deadline_ns = desk.clock.monotonic_ns() + ((spec.start_s or limits.ENGINE_START_S) + limits.START_S) * NS_PER_S
    while desk.clock.monotonic_ns() < deadline_ns and is_held(desk.data):
        seen = engine_files.seen(desk.data, spec.name)
        if seen is not None and done(seen):
            if seen.state is EngineState.FAILED:
                raise StartError(f"{spec.name} does not run: {seen.reason} It is tried again.")
            show.say(f"{spec.name} is {seen.state}.", _row(desk, spec))
            return
        time.sleep(_LOOK_S)
    raise StartError(f"{spec.name} does not run yet. See: steelyard engine show {spec.name}")


def _row(desk: Desk, spec: EngineSpec) -> dict[str, Any]:
    """What is wanted and what was seen, in plain values; no key, sealed or not."""
    seen = engine_files.seen(desk.data, spec.name)
    held = seen is not None and is_held(desk.data)
    state = state_at(spec, seen, desk.clock.now_ns()).value if held else "not running"
    start = engine_files.start(desk.data, spec.name)
    load = msgspec.to_builtins(seen.load) if seen is not None and seen.load is not None else {}
    return {
        **{field: value for field, value in msgspec.to_builtins(spec).items() if field not in _NOT_SHOWN},
        **dict.fromkeys(EngineLoadFields),
        **load,
        "state": state,
        "reason": (seen.reason if seen else "") or spec.reason,
        "address": (seen.address if seen else "") or spec.address or (start.address if start else ""),
        "command": seen.command if seen else "",
        "started_at": iso_from_ns(start.last_ns) if start else None,
        "restarts": start.starts - 1 if start else None,
        "why": start.why if start else "",
        "busy_ns": seen.busy_ns if seen else 0,
        "up_ns": seen.up_ns if seen else 0,
        "energy": (seen.energy if seen else Energy.MODELLED).value,
        "busy_uj": seen.busy_uj if seen else 0,
        "idle_uj": seen.idle_uj if seen else 0,
    }


def _lanes(row: dict[str, Any]) -> str:
    if row["waiting_batch"] is None:
        return ""
    return f" ({row['waiting'] - row['waiting_batch']:,} interactive, {row['waiting_batch']:,} batch)"


def _started(row: dict[str, Any]) -> str:
    if row["started_at"] is None:
        return "not since the platform was started"
    return f"{row['started_at']}; restarts since the platform was started: {row['restarts']}"


_NOT_SHOWN = {"token", "command", "address", "reason"}
EngineLoadFields = (
    *("running", "waiting", "kv_permille", "prefill_tokens", "decode_tokens", "cache_asked_tokens"),
    *("cache_hit_tokens", "drafted_tokens", "accepted_tokens", "waiting_batch"),
)


def _lines(row: dict[str, Any]) -> list[tuple[str, str]]:
    """What a person reads of an engine."""

    def told(name: str) -> str:
        return "not told" if row[name] is None else f"{row[name]:,}"

    def share(part: str, whole: str) -> str:
        if row[part] is None or row[whole] is None:
            return "not told"
        return f"{row[part]:,} of {row[whole]:,} tokens ({percent_text(row[part], row[whole])})"

    energy = _ENERGY[Energy(row["energy"])]
    if row["energy"] != Energy.MODELLED:
        energy += f"; {energy_text(row['busy_uj'])} while busy, {energy_text(row['idle_uj'])} while idle"
    adopted = row["kind"] in ADDED and bool(row["address"]) and not row["command"]
    drafts = "none"
    if row["drafted_tokens"] != 0:
        drafts = f"{share('accepted_tokens', 'drafted_tokens')} accepted; never billed to customers"
    kv = "not told" if row["kv_permille"] is None else percent_text(row["kv_permille"], 1000)
    busy = f"{row['busy_ns'] / NS_PER_S:,.1f} s of {row['up_ns'] / NS_PER_S:,.1f} s"
    return [
        ("engine", f"{row['name']} ({row['kind']}{', adopted' if adopted else ''})"),
        ("model", f"{row['model']} (there: {row['weights']})" if row["weights"] else row["model"]),
        ("state", f"{row['state']}{', ' + row['reason'] if row['reason'] else ''}"),
        *((("chosen", row["why"]),) if row["why"] else ()),
        ("started", _started(row)),
        ("address", row["address"] or "none yet"),
        *((("command", row["command"]),) if row["command"] else ()),
        ("requests", f"{told('running')} running, {told('waiting')} waiting{_lanes(row)}"),
        ("KV cache", kv),
        ("tokens", f"{told('prefill_tokens')} read, {told('decode_tokens')} written"),
        ("cache hits", share("cache_hit_tokens", "cache_asked_tokens")),
        ("drafts", drafts),
        ("busy", f"{busy} ({percent_text(row['busy_ns'], row['up_ns'])})"),
        ("energy", energy),
    ]
