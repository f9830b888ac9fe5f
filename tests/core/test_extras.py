"""What is not installed is named, with the line that installs it."""

import pytest

from moediff.core.errors import ConfigError
from moediff.core.extras import require_modules


def test_missing_modules_are_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr("moediff.core.extras.find_spec", lambda name: None if name == "jinja2" else object())
    with pytest.raises(ConfigError, match=r"needs jinja2; install with: pip install 'moediff-sr\[report\]'"):
        require_modules("jinja2", "matplotlib")


def test_installed_modules_are_accepted():
    require_modules("json", "pathlib")
