"""The objects that `trainer submit` makes: settings, shape, names, keys; and what it refuses."""

import pytest
import yaml

from trainer.cli import main
from trainer.config.sources import load_settings
from trainer.errors import SettingsError
from trainer.kube.job import MAX_NAME, Wishes, as_yaml, plan

S3 = ("run.store=s3://bucket/runs",)


def planned(*overrides, **wishes):
    return plan(load_settings(config="quick", overrides=overrides), Wishes(**wishes))


def of_kind(found, kind):
    return next((item for item in found.objects if item["kind"] == kind), None)


def job_of(found):
    return of_kind(found, "PyTorchJob")


def container_of(found, replica="Master"):
    return job_of(found)["spec"]["pytorchReplicaSpecs"][replica]["template"]["spec"]["containers"][0]


def volumes_of(found):
    spec = job_of(found)["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    return {volume["name"]: volume for volume in spec["volumes"]}


def config_of(found):
    return yaml.safe_load(of_kind(found, "ConfigMap")["data"]["config.yaml"])


def test_one_pod_with_a_store_on_a_volume_is_the_default():
    found = planned(image="registry.example.org/trainer:1")
    assert [item["kind"] for item in found.objects] == ["PersistentVolumeClaim", "ConfigMap", "PyTorchJob"]
    assert list(job_of(found)["spec"]["pytorchReplicaSpecs"]) == ["Master"]
    assert job_of(found)["spec"]["nprocPerNode"] == "1"
    assert container_of(found)["image"] == "registry.example.org/trainer:1"
    assert "command" not in container_of(found)
    assert (
        volumes_of(found)["store"]["persistentVolumeClaim"]["claimName"]
        == of_kind(found, found.objects[0]["kind"])["metadata"]["name"]
    )
    assert volumes_of(found)["config"]["configMap"]["name"] == found.job
    assert found.store == config_of(found)["run"]["store"] == "file:///store"


def test_the_config_map_says_the_same_as_the_desk(tmp_path):
    loaded = load_settings(config="quick", overrides=["optim.lr=0.5", "passes.val=at 50%", "optim.clip=null", *S3])
    path = tmp_path / "config.yaml"
    path.write_text(of_kind(plan(loaded, Wishes()), "ConfigMap")["data"]["config.yaml"])
    assert load_settings(config=str(path)).settings == loaded.settings


def test_only_what_was_given_is_in_the_config_map():
    config = config_of(planned("seed=7"))
    assert config["seed"] == 7
    assert config["task"] == "signs"
    assert "watchdog" not in config


def test_the_name_changes_with_anything_that_a_pod_is():
    base = planned()
    assert planned().job == base.job
    others = [planned("seed=7"), planned(image="other:1"), planned(workers=1), planned(gpus=1), planned(cpu="2")]
    assert len({base.job, *(one.job for one in others)}) == len(others) + 1
    assert all(one.run == base.run for one in others[1:]), "another shape goes on with the same run"
    assert others[0].run != base.run


def test_a_run_has_its_own_name_where_it_is_given():
    found = planned("run.name=My_Run.2")
    assert (found.run, container_of(found)["env"][0]["value"]) == ("My_Run.2", "My_Run.2")
    assert found.job.startswith("my-run-2-")
    assert planned(name="first").run == planned(name="first").job == "first"
    assert planned("run.name=other", name="first").run == "other"


@pytest.mark.parametrize("run", ["9lives", "x" * 100, "a.b_c", "A", "0"])
def test_names_of_jobs_are_what_the_webhook_takes(run):
    name = planned(f"run.name={run}").job
    assert len(name) <= MAX_NAME
    assert name[0].isalpha()
    assert name == name.lower()
    assert "." not in name


@pytest.mark.parametrize("name", ["Upper", "9th", "a.b", "x" * 51, "ends-"])
def test_a_name_that_the_webhook_would_refuse_is_refused_here(name):
    with pytest.raises(SettingsError, match="--name"):
        planned(name=name)


def test_workers_are_copies_of_the_master():
    found = planned(*S3, workers=3, nproc=2, gpus=4, cpu="2", memory="8Gi", secret="keys")
    specs = job_of(found)["spec"]["pytorchReplicaSpecs"]
    assert (specs["Master"]["replicas"], specs["Worker"]["replicas"]) == (1, 3)
    assert specs["Worker"]["template"] == specs["Master"]["template"]
    assert specs["Worker"]["restartPolicy"] == "ExitCode"
    assert job_of(found)["spec"]["nprocPerNode"] == "2"
    resources = container_of(found, "Worker")["resources"]
    assert resources["requests"] == {"cpu": "2", "memory": "8Gi"}
    assert resources["limits"] == {"memory": "8Gi", "nvidia.com/gpu": 4}
    assert job_of(planned(gpus=4))["spec"]["nprocPerNode"] == "4"


def test_the_time_to_stop_in_is_the_pods_too():
    def grace(found):
        pod = job_of(found)["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
        told = next(one for one in pod["containers"][0]["env"] if one["name"] == "TRAINER__RUN__GRACE_SECONDS")
        return pod["terminationGracePeriodSeconds"], told["value"]

    assert grace(planned("run.grace_seconds=600.5")) == (601, "601")
    assert grace(planned()) == (120, "120")


def test_metrics_are_served_where_a_monitor_looks():
    def port(found):
        told = next(one for one in container_of(found)["env"] if one["name"] == "TRAINER__TELEMETRY__PROMETHEUS__PORT")
        named = next(one for one in container_of(found)["ports"] if one["name"] == "metrics")
        return named["containerPort"], told["value"]

    assert port(planned("telemetry.prometheus.port=9191")) == (9191, "9191")
    assert port(planned()) == (9090, "9090")


def test_keys_come_from_a_secret_and_stand_nowhere(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    found = planned(*S3, secret="keys")
    refs = [one["valueFrom"]["secretKeyRef"] for one in container_of(found)["env"] if one["name"].startswith("AWS_")]
    assert refs == [
        {"name": "keys", "key": "AWS_ACCESS_KEY_ID"},
        {"name": "keys", "key": "AWS_SECRET_ACCESS_KEY"},
    ]
    assert "very-secret" not in as_yaml(found, None)


def test_a_store_in_s3_needs_no_volume():
    found = planned(*S3, service_account="trainer")
    assert of_kind(found, "PersistentVolumeClaim") is None
    assert "store" not in volumes_of(found)
    assert not [mount for mount in container_of(found)["volumeMounts"] if mount["name"] == "store"]
    assert not found.notes
    assert "no --secret" in planned(*S3).notes[0]


def test_existing_claims_are_mounted():
    found = planned("data.layout=auto", store_claim="runs", data_claim="recordings")
    assert of_kind(found, "PersistentVolumeClaim") is None
    assert volumes_of(found)["store"]["persistentVolumeClaim"]["claimName"] == "runs"
    assert volumes_of(found)["data"]["persistentVolumeClaim"] == {"claimName": "recordings", "readOnly": True}
    assert config_of(found)["data"]["path"] == "/data"
    assert config_of(planned("data.path=/data/more", data_claim="recordings"))["data"]["path"] == "/data/more"


def test_a_folder_of_this_machine_is_no_store_for_pods():
    with pytest.raises(SettingsError, match="file://runs, a place on this machine"):
        planned("run.store=file://runs")
    with pytest.raises(SettingsError, match="storehouse"):
        planned("run.store=file:///storehouse")
    with pytest.raises(SettingsError, match="--secret keys has no effect"):
        planned(secret="keys")
    assert "must run on its node" in planned(workers=1).notes[0]


def test_a_dry_run_prints_what_kubectl_takes_and_needs_no_cluster(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert main(["submit", "--config", "quick", "--dry-run", "-n", "team", "--image", "trainer:1"]) == 0
    out, err = capsys.readouterr()
    items = list(yaml.safe_load_all(out))
    assert {item["kind"] for item in items} == {"PersistentVolumeClaim", "ConfigMap", "PyTorchJob"}
    assert {item["metadata"]["namespace"] for item in items} == {"team"}
    assert err == ""
    assert "&id" not in out
    assert main(["submit", "--config", "quick", "--dry-run"]) == 0
    assert "namespace" not in yaml.safe_load(capsys.readouterr().out.split("---")[0])["metadata"]


def test_a_timeout_without_a_wait_is_no_limit_and_refused(capsys):
    assert main(["submit", "--config", "quick", "--timeout", "5", "--dry-run"]) == 2
    assert "--timeout has no effect without --wait" in capsys.readouterr().err


def test_wrong_settings_are_refused_at_the_desk(capsys):
    assert main(["submit", "--batch_size", "0", "--dry-run"]) == 2
    assert "batch_size is 0" in capsys.readouterr().err
