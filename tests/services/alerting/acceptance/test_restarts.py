"""Starts, restarts, reloads and time-outs of the real program."""

import signal
import time
from typing import Any

import pytest

from services.demo.receivers import PAGERDUTY, Answer

pytestmark = pytest.mark.timeout(180)

POLICY = """\
version: 1
defaults: {{group_wait: {wait}, group_interval: 1m, repeat_interval: 0s}}
correlation: {{across: none}}
receivers:
  - {{name: pager, type: pagerduty, routing_key_env: KEY_PAGER, timeout: 1s, rate_per_second: 1000, burst: 1000}}
  - {{name: second, type: pagerduty, routing_key_env: KEY_SECOND, rate_per_second: 1000, burst: 1000}}
  - {{name: chat, type: slack, token_env: SLACK_TOKEN, channel: CHAT, rate_per_second: 1000, burst: 1000}}
route: {{notify: {notify}}}
"""


def policy(wait: str = "0s", notify: str = "[pager]") -> str:
    return POLICY.format(wait=wait, notify=notify)


def wait_until(condition: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_first_start_tells_of_what_is_still_open_and_of_nothing_that_is_over(make_play: Any, make_alert: Any) -> None:
    play = make_play("cold")
    play.publish(
        make_alert(1, deployment_id="play-over"),
        make_alert(1, "resolved", deployment_id="play-over"),
        make_alert(1, deployment_id="play-cold"),
    )
    play.write(policy())
    play.start()
    wait_until(lambda: play.heard("pager", "play-cold"))
    play.end()
    assert not play.heard(about="play-over")


def test_a_kill_while_the_group_waits_delays_the_message_and_loses_nothing(make_play: Any, make_alert: Any) -> None:
    play = make_play("waiting")
    play.write(policy("5m"))
    play.start()
    play.publish(make_alert(1, deployment_id="play-waiting"))
    play.until(2)
    play.end(signal.SIGKILL)
    assert not play.heard(about="play-waiting")
    play.start()
    wait_until(lambda: play.heard("pager", "play-waiting"))
    time.sleep(1)
    play.end()
    assert [m.kind for m in play.heard("pager", "play-waiting")] == ["trigger"]


def test_a_lost_database_is_rebuilt_from_the_topics_and_nothing_is_told_twice(make_play: Any, make_alert: Any) -> None:
    play = make_play("lost")
    play.write(policy(notify="[pager, chat]"))
    play.start()
    play.publish(make_alert(1, deployment_id="play-lost"))
    wait_until(lambda: play.heard("pager", "play-lost") and play.heard("CHAT", "play-lost"))
    [row] = play.listed("play-lost")
    play.command("incidents", "ack", row["id"], "--reason", "on it")
    wait_until(lambda: any(m.kind == "acknowledge" for m in play.heard("pager", "play-lost")))
    time.sleep(1)
    play.end()
    for path in play.folder.glob("alerting.db*"):
        path.unlink()
    before = len(play.heard(about="play-lost"))
    play.start()
    time.sleep(3)
    assert len(play.heard(about="play-lost")) == before, "told again"
    [rebuilt] = play.listed("play-lost")
    assert (rebuilt["id"], rebuilt["status"]) == (row["id"], "acknowledged")
    play.publish(make_alert(1, "resolved", deployment_id="play-lost"))
    wait_until(lambda: any(m.kind == "resolve" for m in play.heard("pager", "play-lost")))
    wait_until(lambda: [m for m in play.heard("CHAT", "play-lost") if m.kind == "update" and "esolved" in str(m.body)])
    play.end()
    posts = [m for m in play.heard("CHAT", "play-lost") if m.kind == "post"]
    assert len(posts) == 1, "the message that was there is changed, not posted anew"


def test_a_reload_sends_new_incidents_elsewhere_and_a_wrong_file_changes_nothing(
    make_play: Any, make_alert: Any
) -> None:
    play = make_play("reload")
    play.write(policy())
    play.start()
    play.publish(make_alert(1, deployment_id="play-before"))
    wait_until(lambda: play.heard("pager", "play-before"))
    play.write(policy(notify="[nobody]"))
    play.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "nobody" in play.said())
    assert "line" in play.said().split("nobody", 1)[0].splitlines()[-1] + play.said().split("nobody", 1)[1]
    play.publish(make_alert(1, deployment_id="play-still"))
    wait_until(lambda: play.heard("pager", "play-still"))
    play.write(policy(notify="[second]"))
    play.process.send_signal(signal.SIGHUP)
    wait_until(lambda: play.audited("policy.loaded") >= 2)
    play.publish(make_alert(1, deployment_id="play-after"), make_alert(1, "resolved", deployment_id="play-before"))
    wait_until(lambda: play.heard("second", "play-after"))
    wait_until(lambda: any(m.kind == "resolve" for m in play.heard("pager", "play-before")))
    play.end()
    assert not play.heard("pager", "play-after")
    assert play.audited("policy.refused") >= 1


def test_a_receiver_that_does_not_answer_in_time_is_asked_again(
    make_play: Any, make_alert: Any, module_receiver: Any
) -> None:
    play = make_play("slow")
    play.write(policy())
    play.start()
    module_receiver.script(PAGERDUTY, Answer(202, delay_seconds=3.0), Answer(503))
    play.publish(make_alert(1, deployment_id="play-slow"))
    wait_until(lambda: play.heard("pager", "play-slow"))
    wait_until(lambda: play.audited("notification.sent") >= 1)
    play.end()
    assert play.audited("notification.retried") >= 1
    keys = {m.body["dedup_key"] for m in play.heard("pager", "play-slow")}
    assert len(keys) == 1
