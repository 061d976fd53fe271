"""The device that is measured, and how fast it runs just now."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import List, Optional

import torch

from .data import L2_BYTES_IF_UNKNOWN

# Bit 0 of the reasons: idling, which is no throttling.
IDLE = 1

# Clocks that differ by more between start and end of a case are worth a note.
STEADY = 0.05

# In use before anything was allocated: more is somebody else's.
TAKEN_BY_ONE = 2 << 30
BUSY_PERCENT = 20


@dataclass(frozen=True)
class Clocks:
    """As nvidia-smi states them while the device is busy or has just been; None where it does not."""

    sm_mhz: Optional[int] = None
    memory_mhz: Optional[int] = None
    # A bit mask; 2 is the power cap, 3, 5, 6 and 7 heat and brakes.
    throttle: Optional[int] = None

    @classmethod
    def parse(cls, line: str) -> Clocks:
        fields = [field.strip() for field in line.split(",")]
        try:
            sm_mhz, memory_mhz, throttle = (int(field, 0) for field in fields)
        except ValueError:
            return cls()
        return cls(sm_mhz, memory_mhz, throttle & ~IDLE)

    def until(self, after: Clocks) -> Clocks:
        """What a case ran at that began at these clocks: the later ones, throttled by either's reasons."""
        if self.throttle is None or after.throttle is None:
            return after
        return Clocks(after.sm_mhz, after.memory_mhz, self.throttle | after.throttle)

    def change(self, after: Clocks) -> str:
        """A note where the clock did not stay what it was."""
        if not self.sm_mhz or not after.sm_mhz or abs(after.sm_mhz / self.sm_mhz - 1) <= STEADY:
            return ""
        return f"SM clock {self.sm_mhz} MHz before and {after.sm_mhz} MHz after"


class Machine:
    def __init__(self, rehearsal: bool) -> None:
        """A machine that is rehearsed on has no device, and nothing is timed."""
        self.rehearsal = rehearsal
        self.torch = torch.__version__
        self._smi_answers = not rehearsal
        if rehearsal:
            self.device = torch.device("cpu")
            self.name, self.driver, self.l2_bytes = "CPU (rehearsal)", "", 0
            self.memory_bytes: Optional[int] = None
            return
        self.device = torch.device("cuda", 0)
        properties = torch.cuda.get_device_properties(self.device)
        self.name = properties.name.replace(",", " ")
        self.memory_bytes = properties.total_memory
        self.l2_bytes = getattr(properties, "L2_cache_size", L2_BYTES_IF_UNKNOWN)
        # nvidia-smi numbers devices by their slot, CUDA_VISIBLE_DEVICES renames them.
        uuid = getattr(properties, "uuid", None)
        self._id = f"GPU-{uuid}" if uuid else "0"
        answer = self._ask("driver_version")
        self.driver = answer[0] if answer else ""

    def clocks(self) -> Clocks:
        if not self._smi_answers:
            return Clocks()
        # Drivers from 580 on call the last one clocks_event_reasons.active, and still know this name.
        answer = self._ask("clocks.sm,clocks.mem,clocks_throttle_reasons.active")
        clocks = Clocks.parse(answer[0]) if answer else Clocks()
        # Asked once, not once a case.
        self._smi_answers = clocks.sm_mhz is not None
        return clocks

    def _ask(self, query: str) -> List[str]:
        command = ["nvidia-smi", "-i", self._id, f"--query-gpu={query}", "--format=csv,noheader,nounits"]
        try:
            output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return []
        return output.stdout.strip().splitlines()

    def company(self) -> List[str]:
        """What a reader should know of who else uses the device, in lines; times beside others mean little."""
        if self.rehearsal:
            return []
        lines = []
        free, total = torch.cuda.mem_get_info(self.device)
        # This process itself has a few hundred megabytes.
        taken = total - free
        if taken > TAKEN_BY_ONE:
            lines.append(f"{taken / 1e9:.1f} of the device's {total / 1e9:.1f} GB are in use already")
        answer = self._ask("utilization.gpu")
        if answer and answer[0].isdecimal() and int(answer[0]) > BUSY_PERCENT:
            lines.append(
                f"the device is busy with something else already ({answer[0]} %): times may mean little"
            )
        return lines

    def synchronize(self) -> None:
        if not self.rehearsal:
            torch.cuda.synchronize()

    def free(self) -> None:
        """Gives back what the last case left in torch's cache."""
        if not self.rehearsal:
            torch.cuda.empty_cache()


def release(version: str) -> str:
    """A version without the build's own suffix, such as `+cu130`."""
    return version.split("+")[0]
