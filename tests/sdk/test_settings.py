"""Settings from environment and file; secrets are used and never shown."""

from pathlib import Path

import pytest

import driftline
from driftline.errors import SettingsError
from driftline.settings import KafkaSettings


def test_without_anything_the_local_broker_is_meant() -> None:
    settings = KafkaSettings.from_environment({})
    assert settings == KafkaSettings("127.0.0.1:9092")
    assert settings.client(acks="all") == {"bootstrap.servers": "127.0.0.1:9092", "acks": "all"}


def test_the_environment_names_everything(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("pw\n")
    (tmp_path / "registry").write_text("ann:pw2\n")
    settings = KafkaSettings.from_environment(
        {
            "DRIFTLINE_BOOTSTRAP_SERVERS": "a:1,b:2",
            "DRIFTLINE_TOPIC_PREFIX": "eu.",
            "DRIFTLINE_APPLICATION_ID": "app",
            "DRIFTLINE_SCHEMA_REGISTRY_URL": "http://r",
            "DRIFTLINE_SCHEMA_REGISTRY_USER_INFO_FILE": str(tmp_path / "registry"),
            "DRIFTLINE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "DRIFTLINE_KAFKA_SASL_PASSWORD_FILE": str(tmp_path / "password"),
            "UNRELATED": "x",
        }
    )
    assert settings.topics.predictions == "eu.predictions"
    assert settings.application_id == "app"
    assert settings.schema_registry_user_info == "ann:pw2"
    assert settings.librdkafka == {"security.protocol": "SASL_SSL", "sasl.password": "pw"}
    assert settings.client()["bootstrap.servers"] == "a:1,b:2"


def test_a_file_gives_what_the_environment_does_not(tmp_path: Path) -> None:
    file = tmp_path / "driftline.toml"
    file.write_text(
        'bootstrap_servers = "file:1"\ntopic_prefix = "f."\nkafka_sasl_username = "ann"\n'
        'schema_registry_user_info = "ann:pw"\n[alerting]\nx = 1\n'
    )
    settings = KafkaSettings.from_environment(
        {"DRIFTLINE_CONFIG": str(file), "DRIFTLINE_BOOTSTRAP_SERVERS": "environment:1"}
    )
    assert settings.bootstrap_servers == "environment:1"
    assert settings.topics.prefix == "f."
    assert settings.schema_registry_user_info == "ann:pw"
    assert settings.librdkafka == {"sasl.username": "ann"}


@pytest.mark.parametrize("content", [None, "= 3", "\ufeff["])
def test_an_unreadable_file_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "driftline.toml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match=r"driftline\.toml"):
        KafkaSettings.from_environment({"DRIFTLINE_CONFIG": str(file)})


def test_a_secret_file_that_is_not_there_is_named_by_its_setting() -> None:
    with pytest.raises(SettingsError, match="DRIFTLINE_KAFKA_SASL_PASSWORD_FILE"):
        KafkaSettings.from_environment({"DRIFTLINE_KAFKA_SASL_PASSWORD_FILE": "/nowhere"})


SECRETS = {
    "sasl.password": "s3cret-1",
    "ssl.key.password": "s3cret-2",
    "ssl.key.pem": "s3cret-3",
    "sasl.oauthbearer.client.secret": "s3cret-4",
    "ssl.keystore.password": "s3cret-5",
}


def test_secrets_are_in_no_representation(tmp_path: Path) -> None:
    settings = KafkaSettings(
        "127.0.0.1:1",
        schema_registry_url="http://ann:s3cret-6@r",
        schema_registry_user_info="ann:s3cret-7",
        librdkafka={"sasl.username": "ann", **SECRETS},
    )
    for text in (repr(settings), str(settings), f"{settings!r:>10}"):
        assert "s3cret" not in text
        assert "ann" in text


@pytest.mark.parametrize(
    "librdkafka",
    [
        {"no.such.property": "1", "sasl.password": ""},
        {"linger.ms": "s3cret?", "sasl.password": "s3cret"},
        {"security.protocol": "ssl", "ssl.key.pem": "s3cret", "ssl.key.password": "s3cret"},
    ],
)
def test_a_setting_that_librdkafka_refuses_shows_at_once_and_without_secrets(
    tmp_path: Path, librdkafka: dict[str, str]
) -> None:
    settings = KafkaSettings("127.0.0.1:1", librdkafka=librdkafka)
    with pytest.raises(SettingsError, match="Kafka client") as caught:
        driftline.Client("credit", "v1", settings=settings, spool_dir=tmp_path)
    assert "s3cret" not in str(caught.value)
