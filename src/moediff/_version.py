"""Version of the package and the notice that stands in every output."""

__version__ = "0.1.0"
RESEARCH_ONLY = "Research use only; not for diagnostic use."
