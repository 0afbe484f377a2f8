"""Rows of the catalogue of bad inputs that are about a model's life: by id."""

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from luthier.errors import EvaluationNeeded, Gone, InUse, LuthierError
from luthier.registry.types import Stage


def m13_archive_whole(world, registry, alice):
    """A download that began before the deletion is whole."""
    model = world.model(alice)
    archive = registry.archive(alice, model.id)
    with archive.stream:
        begun = archive.stream.read(1000)
        registry.delete(alice, model.id)
        data = begun + archive.stream.read()
    assert len(data) == archive.size
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        names = {name.rpartition("/")[2]: opened.extractfile(name) for name in opened.getnames()}
        assert names["adapter_model.safetensors"].read() == world.weights


def m13_file_whole(world, registry, alice):
    model = world.model(alice)
    known, opened = registry.open(alice, model.id, "adapter_model.safetensors")
    with opened:
        begun = opened.read(10)
        registry.delete(alice, model.id)
        assert begun + opened.read() == world.weights
    assert known.bytes == len(world.weights)


def m13_gone_afterwards(world, registry, alice):
    model = world.model(alice)
    registry.delete(alice, model.id)
    for verb in (registry.archive, registry.files):
        with pytest.raises(Gone):
            verb(alice, model.id)


def m13_never_short(world, registry, alice):
    """Whenever the deletion comes, a download is whole, or refused with an error of ours."""
    for _ in range(8):
        model = world.model(alice)

        def downloaded(ref=model.id) -> bool:
            try:
                archive = registry.archive(alice, ref)
                with archive.stream:
                    return len(archive.stream.read()) == archive.size
            except LuthierError:
                return True

        with ThreadPoolExecutor(3) as pool:
            reads = [pool.submit(downloaded) for _ in range(2)]
            pool.submit(registry.delete, alice, model.id).result()
            assert all(read.result() for read in reads)


def m14_production_is_not_deleted(world, registry, alice):
    model = world.promoted(alice, world.model(alice))
    with pytest.raises(InUse):
        registry.delete(alice, model.id)


def m14_used_is_not_deleted(world, registry, alice):
    model = world.model(alice)
    with world.database.write(alice.tenant_id) as session:
        registry.use(session, alice, model.id, "job_1")
    with pytest.raises(InUse):
        registry.delete(alice, model.id)


def m14_one_wins(world, registry, alice):
    before = world.promoted(alice, world.model(alice))
    models = [world.model(alice) for _ in range(2)]
    for model in models:
        registry.attach(world.measured(alice, model, against=before))

    def promoted(model) -> bool:
        try:
            return registry.transition(alice, model.id, Stage.PRODUCTION).stage is Stage.PRODUCTION
        except EvaluationNeeded:
            return False

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(promoted, models)) == [False, True]
    assert len(registry.list(alice, stage=Stage.PRODUCTION).data) == 1


ROWS = {
    "M13": (m13_archive_whole, m13_file_whole, m13_gone_afterwards, m13_never_short),
    "M14": (m14_production_is_not_deleted, m14_used_is_not_deleted, m14_one_wins),
}


@pytest.mark.parametrize(
    "shown", [pytest.param(shown, id=f"{row}-{shown.__name__[4:]}") for row, all_of in ROWS.items() for shown in all_of]
)
def test_a_bad_moment_for_a_model_ends_as_the_catalogue_says(shown, world, registry, alice):
    shown(world, registry, alice)
