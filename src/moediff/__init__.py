"""MoEDiff-SR: mixture-of-experts-guided diffusion super-resolution of brain MRI. Research use only."""

__version__ = "0.1.0"
