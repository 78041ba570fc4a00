"""The engine's clock: shares, restarts, absence."""

import struct
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from steelyard.kernel import limits
from steelyard.metering.energy import CpuClock, EnergyClock, EnergyClocks, clock_path, energy_uj, is_measured


class Cpu:
    """CPU time that passes when told to."""

    def __init__(self, ns: int = 0) -> None:
        self.ns = ns

    def __call__(self) -> int:
        return self.ns


def test_cpu_time_is_shared_among_the_running_sequences(tmp_path: Path) -> None:
    cpu = Cpu(5_000)  # spent on loading the model: nobody's
    clock = CpuClock(clock_path(tmp_path, "local"), cpu)
    clocks = EnergyClocks(tmp_path)
    assert clocks.per_sequence_ns("local") == 0
    cpu.ns += 1_000
    clock.tick(4)
    assert clocks.per_sequence_ns("local") == 250
    cpu.ns += 1_000
    clock.tick(0)  # an idle engine: no request reads the difference
    assert clocks.per_sequence_ns("local") == 1_250
    clocks.close()
    clock.close()


def test_what_is_used_while_nothing_runs_is_nobodys(tmp_path: Path) -> None:
    cpu = Cpu()
    clock = CpuClock(clock_path(tmp_path, "local"), cpu)
    clocks = EnergyClocks(tmp_path)
    cpu.ns += 5_000
    opened = clocks.per_sequence_ns("local")  # whoever asks now has not been heard yet
    clock.rested()
    cpu.ns += 1_000
    clock.tick(1)
    assert clocks.per_sequence_ns("local") - opened == 1_000
    assert struct.unpack_from("=Q", clock_path(tmp_path, "local").read_bytes())[0] == 6_000
    clocks.close()
    clock.close()


def test_a_restarted_engine_counts_on(tmp_path: Path) -> None:
    cpu = Cpu()
    clock = CpuClock(clock_path(tmp_path, "local"), cpu)
    clocks = EnergyClocks(tmp_path)
    cpu.ns += 900
    clock.tick(1)
    assert clocks.per_sequence_ns("local") == 900
    clock.close()
    again = CpuClock(clock_path(tmp_path, "local"), cpu := Cpu(3))
    assert clocks.per_sequence_ns("local") == 900
    cpu.ns += 100
    again.tick(1)
    assert clocks.per_sequence_ns("local") == 1_000  # through the mapping made before the restart
    clocks.close()
    again.close()


def test_a_missing_clock_reads_zero_and_is_found_when_it_appears(tmp_path: Path) -> None:
    clocks = EnergyClocks(tmp_path / "energy")
    assert clocks.per_sequence_ns("local") == 0
    early = clocks.gauges["local"]
    cpu = Cpu()
    clock = CpuClock(clock_path(tmp_path / "energy", "local"), cpu)
    cpu.ns += 70
    clock.tick(1)
    assert clocks.per_sequence_ns("local") == 0  # not looked for with every request
    clocks.look_again()
    assert clocks.per_sequence_ns("local") == 70
    assert early.per_sequence_ns() == 0  # a request opened before does not inherit the engine's past
    clocks.close()
    clock.close()


def test_an_upstream_name_cannot_leave_the_directory(tmp_path: Path) -> None:
    assert clock_path(tmp_path, "../../etc/x").parent == tmp_path
    assert clock_path(tmp_path, "local").name == "local.clock"


@pytest.mark.parametrize(
    ("cpu_ns", "watts_milli", "expected"),
    [
        (1_000_000_000, 10_000, 10_000_000),  # one second at ten watts: ten joules
        (0, 10_000, 0),
        (50, 10_000, 0),  # half a microjoule, ties to even
        (150, 10_000, 2),
        (250, 10_000, 2),
        (10**15, 10**6, 10**15),
    ],
)
def test_energy_is_time_times_power(cpu_ns: int, watts_milli: int, expected: int) -> None:
    assert energy_uj(cpu_ns, watts_milli) == expected


def test_energy_counts_as_measured_only_if_it_was_all_the_time(tmp_path: Path) -> None:
    clock = EnergyClock(clock_path(tmp_path, "gpu"))
    clocks = EnergyClocks(tmp_path)
    gauge = clocks.gauges["gpu"]

    def stretch() -> int:
        return gauge.measured()[1]

    before = stretch()
    clock.add(1_000, 2, 500)
    assert not is_measured(before, stretch())  # what was used before the first look is unknown
    start_uj, start = gauge.measured()
    clock.add(1_000, 2, 500)
    clock.add(1_000, 1, 0)
    assert is_measured(start, stretch())
    assert gauge.measured()[0] - start_uj == 250
    clock.add(1_000, 1, None)
    assert not is_measured(start, stretch())
    clock.add(1_000, 1, 70)
    assert not is_measured(start, stretch())  # measured again, but there is a gap
    again = stretch()
    clock.close()
    after = EnergyClock(clock_path(tmp_path, "gpu"))  # the one before was killed while it measured
    after.add(1_000, 1, 30)
    assert not is_measured(again, stretch())
    assert not is_measured(EnergyClocks(tmp_path / "none").gauges["x"].measured()[1], 0)
    clocks.close()
    after.close()


def test_the_engines_side_knows_what_living_workers_have_with_it(tmp_path: Path) -> None:
    clock = EnergyClock(clock_path(tmp_path, "gpu"))
    assert clock.running() == 0
    first, second = (EnergyClocks(tmp_path, worker).gauges["gpu"] for worker in (0, limits.WORKERS_MAX - 1))
    first.run(3)
    second.run(2)
    first.run(-1)
    assert clock.running() == 4
    dying = f"""if True:
        from pathlib import Path
        from steelyard.metering.energy import EnergyClocks
        EnergyClocks(Path({str(tmp_path)!r}), 7).gauges["gpu"].run(100)
        print("has", flush=True)
        input()
    """
    with Popen([sys.executable, "-c", dying], stdin=PIPE, stdout=PIPE) as worker:
        assert worker.stdout is not None and worker.stdout.readline() == b"has\n"
        assert clock.running() == 104
        worker.kill()
        worker.wait()
        assert clock.running() == 4, "a dead worker's are with nobody"
    successor = EnergyClocks(tmp_path).gauges["gpu"]
    assert clock.running() == 2, "what the one before had is not its own"
    successor.run(1)
    assert clock.running() == 3
    clock.close()


def test_a_clock_of_the_days_before_the_workers_is_made_longer(tmp_path: Path) -> None:
    path = clock_path(tmp_path, "gpu")
    path.write_bytes(struct.pack("=4Q", 70, 7, 0, 0))
    assert EnergyClocks(tmp_path).gauges["gpu"].stands_still, "its engine has not come yet"
    clock = EnergyClock(path)
    assert EnergyClocks(tmp_path).per_sequence_ns("gpu") == 7
    clock.close()
