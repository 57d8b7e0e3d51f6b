"""Rolling bearings: geometry and characteristic frequencies (Randall and Antoni 2011, 10.1016/j.ymssp.2010.07.017)."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Bearing:
    """Geometry of a bearing whose outer ring stands still.

    Attributes:
        balls: rolling elements.
        ball_mm, pitch_mm: diameter of an element, and of the circle of their centres.
        contact_deg: contact angle.
    """

    balls: int
    ball_mm: float
    pitch_mm: float
    contact_deg: float = 0.0

    @property
    def _ratio(self) -> float:
        return self.ball_mm / self.pitch_mm * math.cos(math.radians(self.contact_deg))

    @property
    def bpfo(self) -> float:
        """Ball passing frequency of the outer race, in multiples of the shaft frequency."""
        return self.balls / 2 * (1 - self._ratio)

    @property
    def bpfi(self) -> float:
        """Ball passing frequency of the inner race, in multiples of the shaft frequency."""
        return self.balls / 2 * (1 + self._ratio)

    @property
    def bsf(self) -> float:
        """Ball spin frequency, in multiples of the shaft frequency; a ball fault strikes twice per spin."""
        return self.pitch_mm / (2 * self.ball_mm) * (1 - self._ratio**2)

    @property
    def ftf(self) -> float:
        """Cage (fundamental train) frequency, in multiples of the shaft frequency."""
        return (1 - self._ratio) / 2


SKF_6205 = Bearing(balls=9, ball_mm=7.94, pitch_mm=39.04)  # drive end of the CWRU rig
NSK_6804 = Bearing(balls=13, ball_mm=3.5, pitch_mm=25.6)  # PRONOSTIA rig of FEMTO
