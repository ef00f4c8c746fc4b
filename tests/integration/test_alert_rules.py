"""What fires when: promtool runs tests/alerts/*.yaml on the very file that the chart ships."""

from pathlib import Path

TESTS = sorted((Path(__file__).resolve().parents[1] / "alerts").glob("*.yaml"))


def test_every_alert_does_what_its_tests_say(promtool):
    assert TESTS
    done = promtool("test", "rules", *TESTS)
    assert done.returncode == 0, done.stdout + done.stderr
