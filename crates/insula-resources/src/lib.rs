//! Control groups of a container, version 1 and 2 behind one type, and the figures they give.
