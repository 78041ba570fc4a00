"""For a measurement: a Steelyard whose scheduler lets nobody wait for a leader. In use where it is on the path."""

from steelyard.kernel import limits

limits.LEADER_GAIN_BLOCKS_MIN = 10**9
