"""Version of the package and the notice that stands in every output."""

__version__ = "0.2.0"
RESEARCH_ONLY = "Research use only; not for diagnostic use."
