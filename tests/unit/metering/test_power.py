"""Energy counters, with the NVML library played by an object that counts as it is told."""

import os
from pathlib import Path

from steelyard.metering.power import nvml_for, rapl_here


class NVMLError(Exception):
    pass


class Library:
    NVMLError = NVMLError

    def __init__(self, **counters_mj: int | None) -> None:
        self.counters = dict(counters_mj)

    def nvmlInit(self) -> None:
        if not self.counters:
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return self._known(f"gpu{index}")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return self._known(uuid)

    def _known(self, name: str) -> str:
        if name not in self.counters:
            raise NVMLError("Not Found")
        return name

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        value = self.counters[handle]
        if value is None:
            raise NVMLError("Not Supported")
        return value


def test_the_gpus_of_an_engine_are_added_up_in_microjoules() -> None:
    library = Library(gpu0=1000, gpu1=5000, gpu2=0)
    power = nvml_for(["0", "1"], library)
    assert power is not None
    library.counters |= {"gpu0": 1250, "gpu1": 5001, "gpu2": 99}
    assert power.used_uj() == 251_000
    assert power.used_uj() == 0


def test_what_cannot_be_read_is_not_nought() -> None:
    library = Library(gpu0=1000)
    power = nvml_for(["0"], library)
    assert power is not None
    library.counters["gpu0"] = None
    assert power.used_uj() is None
    library.counters["gpu0"] = 2000
    assert power.used_uj() is None  # what was used while it could not be read is nobody's
    library.counters["gpu0"] = 2001
    assert power.used_uj() == 1000
    library.counters["gpu0"] = 5  # the driver was loaded anew
    assert power.used_uj() is None


def test_without_driver_gpu_or_counter_nothing_is_measured() -> None:
    assert nvml_for(["0"], Library()) is None
    assert nvml_for(["7"], Library(gpu0=1)) is None
    assert nvml_for(["0"], Library(gpu0=None)) is None
    assert nvml_for([], Library(gpu0=1)) is None
    assert nvml_for(["GPU-1"], Library(**{"GPU-1": 3})) is not None


# --- CPU packages -------------------------------------------------------------------------------------------------


def package(root: Path, number: int, energy_uj: int) -> Path:
    made = root / f"intel-rapl:{number}"
    made.mkdir(parents=True, exist_ok=True)
    (made / "energy_uj").write_text(f"{energy_uj}\n")
    (made / "max_energy_range_uj").write_text("1000000\n")
    return made


def busy(stat: Path, ticks: int) -> None:
    stat.write_text(f"cpu  {ticks} 0 0 99999 7 0 0 0 0 0\ncpu0 1 1\n")


def test_what_the_packages_drew_is_shared_by_cpu_time(tmp_path: Path) -> None:
    stat, tick_ns = tmp_path / "stat", 10**9 // os.sysconf("SC_CLK_TCK")
    busy(stat, 100)
    package(tmp_path, 0, 500)
    package(tmp_path, 1, 999_000)
    (tmp_path / "intel-rapl:0:0").mkdir()  # the cores are a part of their package
    power = rapl_here(tmp_path, stat)
    assert power is not None
    package(tmp_path, 0, 3_500)
    package(tmp_path, 1, 4_000)  # its counter has started over
    busy(stat, 110)
    assert power.share_uj(4 * tick_ns) == (3_000 + 5_000) * 4 // 10
    package(tmp_path, 0, 3_600)
    assert power.share_uj(3) == 100  # the kernel's count of busy time is coarser than ours: never more than all
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert power.share_uj(tick_ns) is None


def test_without_counters_nothing_is_measured_here(tmp_path: Path) -> None:
    assert rapl_here(tmp_path) is None
    (package(tmp_path, 0, 1) / "energy_uj").write_text("")
    assert rapl_here(tmp_path) is None
