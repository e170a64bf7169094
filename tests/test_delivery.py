"""Layers that go to registries while their image is built (decision 9)."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from assembler.cache.local import LocalCache
from assembler.cancellation import Cancellation
from assembler.delivery import Delivery, FilesDelivery
from assembler.engine.services import Destination, Nowhere, Services
from assembler.environment import Environment
from assembler.errors import (
    BlobCorrupt,
    Cancelled,
    NoSpace,
    RegistryError,
    Unauthorized,
    Unreachable,
)
from assembler.events import Event, VertexDone, VertexFailed
from assembler.layer.changeset import Entry, Kind
from assembler.layer.tree import ChangesetTree, EmptyTree, Tree, everything
from assembler.net.retry import RetryPolicy
from assembler.oci.config import Execution, ImageConfig
from assembler.oci.descriptor import LAYER_TAR, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer
from assembler.oci.platform import Platform
from assembler.oci.reference import Reference
from assembler.output.registry import RegistryOutput
from assembler.registry import client as client_module
from assembler.registry.client import RegistryClient
from assembler.registry.configuration import RegistryConfiguration
from assembler.store.growing import WORTHWHILE, Growing
from assembler.store.store import Store
from assembler.testing import Answer, Asked, MemoryRegistry
from tests.engine.test_execution import ScriptedRuntime, Workshop

MIB = 1 << 20
BIG = random.Random(1).randbytes(WORTHWHILE + 3 * MIB)
SECONDS = 60.0  # for what happens at once


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until `holds` does."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)


def image_of(*contents: bytes) -> Image:
    layers = tuple(
        Layer(Descriptor(LAYER_TAR, Digest.of(content), len(content)), Digest.of(content))
        for content in contents
    )
    config = ImageConfig(
        Platform("linux", "amd64"), Execution(), tuple(one.diff_id for one in layers)
    )
    return Image.create(config, layers)


def sent(registry: MemoryRegistry, *methods: str) -> list[Asked]:
    return [one for one in list(registry.asked) if one.method in methods]


class Dock:
    """A store, a client, and deliveries of what is in the store."""

    def __init__(self, directory: Path) -> None:
        self.events: list[Event] = []
        self.cancellation = Cancellation()
        self.store = Store.open(str(directory / "store"))
        environment = Environment.read({"HOME": str(directory)})
        self.client = RegistryClient(
            environment,
            RegistryConfiguration.read(environment, frozenset()),
            cancellation=self.cancellation,
            policy=RetryPolicy(tries=3, first=0.001, cap=0.002),
        )

    def output(self, *names: str) -> RegistryOutput:
        return RegistryOutput(self.client, [Reference.parse(name) for name in names])

    def delivery(self, *outputs: RegistryOutput) -> Delivery:
        return Delivery(
            outputs,
            lambda layer: self.store.blobs.open(layer.digest),
            sink=self.events.append,
            clock=time.time,
            cancellation=self.cancellation,
        )

    def put(self, content: bytes) -> Descriptor:
        return Descriptor(LAYER_TAR, self.store.blobs.put(content), len(content))

    def image(self, *contents: bytes) -> Image:
        made = image_of(*contents)
        self.store.put_image(made)
        return made

    @contextmanager
    def packing(self, destination: Destination) -> Iterator[Callable[[bytes], object]]:
        """Packs a layer by pieces; told to `destination` as the engine does it."""
        with self.store.blobs.ingest(follow=destination.growing) as ingest:
            yield ingest.write
            digest, size = ingest.commit()
        destination.layer(Descriptor(LAYER_TAR, digest, size))


@pytest.fixture
def dock(tmp_path: Path) -> Iterator[Dock]:
    made = Dock(tmp_path)
    before = threading.active_count()
    with made.cancellation, made.client:
        yield made
    eventually(lambda: threading.active_count() <= before)


@pytest.fixture
def registry() -> Iterator[MemoryRegistry]:
    with MemoryRegistry() as found:
        yield found


def test_a_layer_is_sent_while_it_is_packed_each_byte_once_and_never_asked_for(
    dock: Dock, registry: MemoryRegistry
) -> None:
    image = image_of(BIG)
    with dock.delivery(dock.output(f"{registry.host}/app:1")) as delivery:
        with dock.packing(delivery) as write:
            for start in range(0, len(BIG) - MIB, MIB):
                write(BIG[start : start + MIB])
            eventually(lambda: sum(map(len, registry.uploads.values())) >= WORTHWHILE)
            assert not registry.blobs
            write(BIG[-MIB:])
        dock.store.put_image(image)
        delivery.write(image)
    assert registry.blobs[str(image.manifest.layers[0].digest)] == BIG
    bodies: dict[str, bytes] = {}  # by upload: the configuration goes beside the end of the layer
    for one in sent(registry, "PATCH", "PUT"):
        if "manifests" not in one.path:
            bodies[one.upload] = bodies.get(one.upload, b"") + one.body
    assert sorted(bodies.values(), key=len) == [image.config_content, BIG]
    asked = [one.path for one in sent(registry, "HEAD")]
    assert asked == [f"/v2/app/blobs/{image.manifest.config.digest}"]


def test_a_small_layer_waits_for_its_digest_and_one_that_is_there_is_not_read(
    dock: Dock, registry: MemoryRegistry
) -> None:
    registry.add_blob("app", b"known")
    with dock.delivery(dock.output(f"{registry.host}/app:1")) as delivery:
        delivery.layer(Descriptor(LAYER_TAR, Digest.of(b"known"), 5))  # it is not in the store
        with dock.packing(delivery) as write:
            write(b"small")
        image = dock.image(b"known", b"small")
        delivery.write(image)
    assert registry.tags("app") == ["1"]
    assert not sent(registry, "PATCH")
    asked = [one.path.rpartition("/")[2] for one in sent(registry, "HEAD")]
    # Blobs go side by side: the configuration may be asked for before a layer.
    wanted = [*image.manifest.layers, image.manifest.config]
    assert sorted(asked) == sorted(str(one.digest) for one in wanted)


def test_the_manifest_goes_when_all_blobs_are_there_and_the_tag_last(
    dock: Dock, registry: MemoryRegistry
) -> None:
    with dock.delivery(dock.output(f"{registry.host}/app:1", f"{registry.host}/app:2")) as delivery:
        for content in (b"one", b"two", BIG):
            with dock.packing(delivery) as write:
                write(content)
        image = dock.image(b"one", b"two", BIG)
        delivery.write(image)
    puts = [one.path for one in sent(registry, "PUT")]
    assert all("/blobs/uploads/" in path for path in puts[:4])
    assert [path.rpartition("/")[2] for path in puts[4:]] == [str(image.digest), "1", "2"]


def test_one_file_goes_to_every_registry_and_is_mounted_in_other_repositories(
    dock: Dock, registry: MemoryRegistry
) -> None:
    with MemoryRegistry() as other:
        names = (f"{registry.host}/a:1", f"{registry.host}/b:1", f"{other.host}/c:1")
        with dock.delivery(dock.output(*names)) as delivery:
            with dock.packing(delivery) as write:
                for start in range(0, len(BIG), MIB):
                    write(BIG[start : start + MIB])
                for one in (registry, other):
                    eventually(lambda one=one: sum(map(len, one.uploads.values())) > 0)
            delivery.write(dock.image(BIG))
        assert [registry.tags(name) for name in "ab"] == [["1"], ["1"]]
        assert other.tags("c") == ["1"]
    bodies = [one.body for one in sent(registry, "PATCH", "PUT") if "manifests" not in one.path]
    assert sum(map(len, bodies)) < len(BIG) + 2 * MIB


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that is slow to take it is told all the same that an upload is given up."""
    monkeypatch.setattr(client_module, "FAREWELL", SECONDS)


@pytest.mark.usefixtures("heard")
def test_when_packing_fails_the_registry_forgets_what_was_sent(
    dock: Dock, registry: MemoryRegistry
) -> None:
    with (
        pytest.raises(ValueError, match="broken"),
        dock.delivery(dock.output(f"{registry.host}/app:1")) as delivery,
        dock.packing(delivery) as write,
    ):
        write(BIG)
        eventually(lambda: sum(map(len, registry.uploads.values())) > 0)
        raise ValueError("broken")
    assert len(sent(registry, "DELETE")) == 1
    assert not registry.uploads and not registry.blobs
    assert os.listdir(Path(dock.store.path, "ingest")) == []


@pytest.mark.usefixtures("heard")
def test_CN01_a_signal_ends_uploads_at_once_and_the_registry_is_told(
    dock: Dock, registry: MemoryRegistry
) -> None:
    with (
        pytest.raises(Cancelled),
        dock.delivery(dock.output(f"{registry.host}/app:1")) as delivery,
        dock.packing(delivery) as write,
    ):
        write(BIG)
        eventually(lambda: sum(map(len, registry.uploads.values())) > 0)
        dock.cancellation.cancel(2)
        dock.cancellation.check()
    assert len(sent(registry, "DELETE")) == 1 and not registry.uploads
    failed = [one for one in dock.events if isinstance(one, VertexFailed)]
    assert [one.cancelled for one in failed] == [True]


def test_a_registry_that_answers_nothing_any_more_does_not_keep_a_cancelled_build(
    dock: Dock, registry: MemoryRegistry
) -> None:
    hanging, over = threading.Event(), threading.Event()

    def hang(asked: Asked) -> None:
        if asked.method in ("PATCH", "DELETE"):
            hanging.set()
            over.wait(SECONDS)

    registry.fault = hang
    with (
        pytest.raises(Cancelled),
        dock.delivery(dock.output(f"{registry.host}/app:1")) as delivery,
        dock.packing(delivery) as write,
    ):
        write(BIG)
        assert hanging.wait(SECONDS)
        dock.cancellation.cancel(2)
        dock.cancellation.check()
    assert not over.is_set()
    over.set()


def test_one_registry_that_fails_keeps_no_other_from_having_the_image(
    dock: Dock, registry: MemoryRegistry
) -> None:
    def refuse(asked: Asked) -> Answer | None:
        return Answer(403) if asked.method == "POST" else None

    with MemoryRegistry(refuse) as other:
        names = f"{other.host}/app:1", f"{registry.host}/app:1"
        with (
            pytest.raises(Unauthorized, match=f"{other.host}/app") as caught,
            dock.delivery(dock.output(names[0]), dock.output(names[1])) as delivery,
        ):
            with dock.packing(delivery) as write:
                write(BIG)
            delivery.write(dock.image(BIG))
    assert registry.host not in caught.value.message
    assert registry.tags("app") == ["1"] and not dock.cancellation.cancelled
    ends = {
        one.name: type(one) for one in dock.events if isinstance(one, VertexDone | VertexFailed)
    }
    assert ends == {f"pushing {names[0]}": VertexFailed, f"pushing {names[1]}": VertexDone}


def test_what_several_registries_say_is_one_error(dock: Dock) -> None:
    def refuse(asked: Asked) -> Answer | None:
        return Answer(403) if asked.method == "POST" else None

    with MemoryRegistry(refuse) as one, MemoryRegistry(refuse) as other:
        with (
            pytest.raises(Unauthorized) as caught,
            dock.delivery(
                dock.output(f"{one.host}/app:1"), dock.output(f"{other.host}/app:1")
            ) as it,
        ):
            dock.put(b"layer")
            it.write(dock.image(b"layer"))
        assert one.host in caught.value.message and other.host in caught.value.message


def test_what_fails_in_passing_is_tried_again_with_the_image(
    dock: Dock, registry: MemoryRegistry
) -> None:
    down = True
    registry.fault = lambda asked: Answer(503) if down else None
    with dock.delivery(dock.output(f"{registry.host}/app:1")) as delivery:
        with dock.packing(delivery) as write:
            write(BIG)
        eventually(lambda: len(registry.asked) >= 3)  # all tries of the policy
        assert not dock.cancellation.cancelled
        down = False
        delivery.write(dock.image(BIG))
    assert registry.tags("app") == ["1"]


def test_a_registry_that_stays_down_is_named(dock: Dock, registry: MemoryRegistry) -> None:
    registry.fault = lambda asked: Answer(503)
    with (
        pytest.raises(Unreachable, match=registry.host),
        dock.delivery(dock.output(f"{registry.host}/app:1")) as delivery,
    ):
        delivery.layer(dock.put(b"layer"))
        delivery.write(dock.image(b"layer"))


class WatchingRuntime(ScriptedRuntime):
    """Has two commands more: `fill PATH`, whose file is worth following, and `await`, which ends
    when `awaited` holds or the build is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited: Callable[[], bool] = lambda: True

    def run(self, process, root, mounts, output, cancellation) -> int:  # type: ignore[no-untyped-def]
        words = process.argv[-1].split()
        if words[0] == "fill":
            Path(root.upper, "big").write_bytes(BIG)
            return 0
        if words[0] == "await":
            eventually(lambda: cancellation.cancelled or self.awaited())
            cancellation.check()
        return super().run(process, root, mounts, output, cancellation)


class Yard(Workshop):
    """A workshop whose images go somewhere while they are built."""

    def __init__(self, directory: Path, dock: Dock) -> None:
        super().__init__(directory)
        self.runtime: WatchingRuntime = WatchingRuntime()  # type: ignore[mutable-override]
        self.dock = dock
        self.destination: Destination = Nowhere()

    def services(self, store: Store, cache: LocalCache, cancellation: Cancellation) -> Services:
        services = super().services(store, cache, cancellation)
        return replace(services, destination=self.destination, cancellation=self.dock.cancellation)

    def push(self, text: str, *names: str) -> Image:
        with self.dock.delivery(self.dock.output(*names)) as delivery:
            self.destination = delivery
            image = self.build(text)
            delivery.write(image)
        return image


@pytest.fixture
def yard(tmp_path: Path, dock: Dock, monkeypatch: pytest.MonkeyPatch) -> Yard:
    os.umask(0o022)
    if os.getuid() != 0:
        monkeypatch.setattr(os, "fchown", lambda *arguments: None)
        monkeypatch.setattr(os, "chown", lambda *arguments, **options: None)
    return Yard(tmp_path, dock)


STEPS = """\
FROM scratch AS unused
RUN ["sh", "write /elsewhere 1"]
FROM scratch
RUN ["sh", "fill /big"]
COPY --from=unused /elsewhere /
RUN ["sh", "await /after 1"]
"""


def test_a_layer_is_there_before_the_next_step_has_ended(
    yard: Yard, registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Growing.end

    def end(self: Growing, digest: Digest | None) -> None:  # who packs may be faster than who sends
        eventually(lambda: len(sent(registry, "PATCH")) > 0)
        real(self, digest)

    monkeypatch.setattr(Growing, "end", end)
    yard.runtime.awaited = lambda: any(len(one) > len(BIG) for one in registry.blobs.values())
    image = yard.push(STEPS, f"{registry.host}/app:1")
    assert registry.tags("app") == ["1"]
    assert len(sent(registry, "PATCH")) > 0
    assert {str(layer.digest) for layer in image.manifest.layers} < set(registry.blobs)
    assert len(registry.blobs) == len(image.layers) + 1, "nothing of stages that are not exported"


def test_the_image_is_the_same_as_without_a_push(
    yard: Yard, registry: MemoryRegistry, tmp_path: Path
) -> None:
    pushed = yard.push(STEPS, f"{registry.host}/app:1")
    (tmp_path / "other").mkdir()
    alone = Yard(tmp_path / "other", yard.dock)
    assert alone.build(STEPS).digest == pushed.digest


def test_a_registry_that_forbids_it_ends_the_build_with_what_it_says(
    yard: Yard, registry: MemoryRegistry
) -> None:
    body = b'{"errors":[{"code":"DENIED","message":"not yours"}]}'
    registry.fault = lambda asked: Answer(403, {}, body) if asked.method == "POST" else None
    yard.runtime.awaited = lambda: False
    with pytest.raises(Unauthorized, match="not yours"):
        yard.push(STEPS, f"{registry.host}/app:1")
    assert not registry.tags("app")


def test_a_cached_build_asks_for_its_layers_only(yard: Yard, registry: MemoryRegistry) -> None:
    image = yard.push(STEPS, f"{registry.host}/app:1")
    before = len(registry.asked)
    yard.push(STEPS, f"{registry.host}/app:2")
    asked = [(one.method, one.path.rpartition("/")[2]) for one in registry.asked[before:]]
    blobs = [("HEAD", str(one.digest)) for one in (*image.manifest.layers, image.manifest.config)]
    digest = str(image.digest)
    assert sorted(asked[: len(blobs)]) == sorted(blobs)
    assert asked[len(blobs) :] == [("PUT", digest), ("GET", digest), ("PUT", "2")]
    assert registry.tags("app") == ["1", "2"]


WAITING = 'FROM scratch\nRUN ["sh", "await /after 1"]\n'
"""Until there is something to send nothing is heard of a registry, but by asking."""


def refusing(*repositories: str, status: int = 403) -> Callable[[Asked], Answer | None]:
    """What lets nobody begin an upload to `repositories`."""

    def refuse(asked: Asked) -> Answer | None:
        name = asked.path.removeprefix("/v2/").partition("/")[0]
        return Answer(status) if asked.method == "POST" and name in repositories else None

    return refuse


@pytest.mark.parametrize("status", [401, 403, 404])
def test_who_may_not_push_learns_it_while_the_first_step_runs(
    yard: Yard, registry: MemoryRegistry, status: int
) -> None:
    registry.fault = refusing("app", status=status)
    yard.runtime.awaited = lambda: False
    with pytest.raises(RegistryError, match=f"{registry.host}/app: the upload") as caught:
        yard.push(WAITING, f"{registry.host}/app:1")
    assert caught.value.status == status and caught.value.hint
    assert [one.method for one in registry.asked] == ["POST"]


def test_each_repository_is_asked_once_and_its_upload_gone_on_with(
    yard: Yard, registry: MemoryRegistry
) -> None:
    with MemoryRegistry() as other:
        names = [f"{registry.host}/{name}" for name in ("a:1", "a:2", "b:1")]
        yard.runtime.awaited = lambda: len(registry.uploads) == 2 and len(other.uploads) == 1
        image = yard.push(WAITING, *names, f"{other.host}/a:1")
        assert other.tags("a") == ["1"] and registry.tags("a") == ["1", "2"]
        assert [one.path.split("/")[2] for one in sent(registry, "POST")[:2]] == ["a", "b"]
        assert len(sent(other, "POST")) == len(image.layers) + 1 and not sent(other, "DELETE")
        # b has its blobs from a, and no use for an upload
        assert [one.path.split("/")[2] for one in sent(registry, "DELETE")] == ["b"]
        assert not registry.uploads and not other.uploads


@pytest.mark.usefixtures("heard")
def test_when_a_step_fails_the_upload_is_given_up(yard: Yard, registry: MemoryRegistry) -> None:
    def failed() -> bool:
        if registry.uploads:
            raise ValueError("broken")
        return False

    yard.runtime.awaited = failed
    with pytest.raises(ValueError, match="broken"):
        yard.push(WAITING, f"{registry.host}/app:1")
    assert [one.method for one in registry.asked] == ["POST", "DELETE"] and not registry.uploads


@pytest.mark.parametrize("status", [400, 429, 500, 503])
def test_what_fails_in_passing_is_no_verdict(
    yard: Yard, registry: MemoryRegistry, status: int
) -> None:
    down = True
    registry.fault = lambda asked: Answer(status) if down and asked.method == "POST" else None
    yard.runtime.awaited = lambda: bool(sent(registry, "POST"))
    with yard.dock.delivery(yard.dock.output(f"{registry.host}/app:1")) as delivery:
        yard.destination = delivery
        image = yard.build(WAITING)
        down = False
        delivery.write(image)
    assert registry.tags("app") == ["1"]


def test_nothing_is_asked_where_nothing_is_run(
    yard: Yard, registry: MemoryRegistry, tmp_path: Path
) -> None:
    (yard.context / "file").write_text("x")
    image = yard.push("FROM scratch\nCOPY file /\n", f"{registry.host}/app:1")
    assert len(sent(registry, "POST")) == len(image.layers) + 1 and not sent(registry, "DELETE")


def test_an_output_that_is_refused_keeps_no_other_from_having_the_image(
    yard: Yard, registry: MemoryRegistry
) -> None:
    with MemoryRegistry(refusing("app")) as other:
        outputs = [yard.dock.output(f"{one.host}/app:1") for one in (other, registry)]
        yard.runtime.awaited = lambda: bool(sent(other, "POST"))
        with (
            pytest.raises(Unauthorized, match=f"{other.host}/app"),
            yard.dock.delivery(*outputs) as delivery,
        ):
            yard.destination = delivery
            delivery.write(yard.build(WAITING))
    assert registry.tags("app") == ["1"] and not yard.dock.cancellation.cancelled


@pytest.mark.parametrize("text", [WAITING, STEPS])
def test_a_repository_that_is_refused_keeps_no_other_of_its_registry_from_having_the_image(
    yard: Yard, registry: MemoryRegistry, text: str
) -> None:
    registry.fault = refusing("a")
    yard.runtime.awaited = lambda: any(one.path.startswith("/v2/a/") for one in registry.asked)
    with pytest.raises(Unauthorized, match=f"{registry.host}/a:") as caught:
        yard.push(text, f"{registry.host}/a:1", f"{registry.host}/b:1")
    assert "/b" not in caught.value.message
    assert registry.tags("b") == ["1"] and not registry.tags("a")


def test_when_all_repositories_refuse_the_error_names_them(
    yard: Yard, registry: MemoryRegistry
) -> None:
    registry.fault = refusing("a", "b")
    yard.runtime.awaited = lambda: False
    with pytest.raises(Unauthorized, match="2 of 2 repositories could not be pushed to"):
        yard.push(WAITING, f"{registry.host}/a:1", f"{registry.host}/b:1")


class Silence:
    """A registry that answers no POST while it lasts."""

    def __init__(self, registry: MemoryRegistry) -> None:
        self.asked, self.over = threading.Event(), threading.Event()
        self._right = registry.answer

    def answer(self, asked: Asked, body: Iterable[bytes]) -> Answer:
        if asked.method == "POST":
            self.asked.set()
            self.over.wait(SECONDS)
        return self._right(asked, body)


@pytest.fixture
def silence(registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Silence]:
    found = Silence(registry)
    monkeypatch.setattr(registry, "answer", found.answer)
    yield found
    found.over.set()


def provide(registry: MemoryRegistry, directory: Path, dock: Dock, text: str) -> None:
    """Have what building `text` gives in the registry, but for the manifest."""
    directory.mkdir()
    image = Yard(directory, dock).build(text)
    for blob in (*image.manifest.layers, image.manifest.config):
        content = (directory / "store/blobs/sha256" / blob.digest.hex).read_bytes()
        registry.add_blob("app", content)


def test_a_registry_that_does_not_say_keeps_no_image_and_no_thread(
    yard: Yard,
    registry: MemoryRegistry,
    silence: Silence,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "FAREWELL", 0.1)
    provide(registry, tmp_path / "earlier", yard.dock, WAITING)
    yard.runtime.awaited = silence.asked.is_set
    yard.push(WAITING, f"{registry.host}/app:1")
    assert registry.tags("app") == ["1"] and not silence.over.is_set()


@pytest.mark.usefixtures("heard")
def test_an_answer_that_is_late_is_waited_for_and_its_upload_given_up(
    yard: Yard, registry: MemoryRegistry, silence: Silence, tmp_path: Path
) -> None:
    def tagged(asked: Asked) -> None:
        if asked.path.endswith("/manifests/1"):
            silence.over.set()

    registry.fault = tagged
    provide(registry, tmp_path / "earlier", yard.dock, WAITING)
    yard.runtime.awaited = silence.asked.is_set
    yard.push(WAITING, f"{registry.host}/app:1")
    assert len(sent(registry, "DELETE")) == 1 and not registry.uploads


def test_CN01_a_signal_ends_the_question_too(
    yard: Yard, registry: MemoryRegistry, silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "FAREWELL", 0.1)

    def interrupted() -> bool:
        if silence.asked.is_set():
            yard.dock.cancellation.cancel(2)
        return False

    yard.runtime.awaited = interrupted
    with pytest.raises(Cancelled) as caught:
        yard.push(WAITING, f"{registry.host}/app:1")
    assert caught.value.signal == 2 and not silence.over.is_set()


def test_a_question_that_waits_for_its_next_attempt_is_given_up_at_once(
    yard: Yard, registry: MemoryRegistry, tmp_path: Path
) -> None:
    provide(registry, tmp_path / "earlier", yard.dock, WAITING)
    registry.fault = lambda asked: (
        Answer(503, {"Retry-After": "200"}) if asked.method == "POST" else None
    )
    yard.runtime.awaited = lambda: bool(sent(registry, "POST"))
    yard.push(WAITING, f"{registry.host}/app:1")
    assert registry.tags("app") == ["1"] and len(sent(registry, "POST")) == 1


def test_packing_that_fails_beside_a_step_ends_the_build(
    yard: Yard, registry: MemoryRegistry
) -> None:
    class Broken(Nowhere):
        def growing(self, blob: Growing) -> None:
            raise OSError(28, "No space left on device")

    yard.destination = Broken()
    yard.runtime.awaited = lambda: False
    with pytest.raises(NoSpace):
        yard.build(STEPS)


PLATFORM = Platform("linux", "amd64")


class Files:
    """An output of files that does what `acts` say, one after another."""

    split = False

    def __init__(self, name: str, *acts: Exception | None) -> None:
        self.name = name
        self.acts = list(acts)
        self.written = 0

    def write(self, tree: Tree, check: Callable[[], None]) -> None:
        check()
        act = self.acts.pop(0) if self.acts else None
        if act is not None:
            raise act
        self.written += 1


def files_delivery(
    outputs: list[Files], events: list[Event], cancellation: Cancellation
) -> FilesDelivery:
    return FilesDelivery(outputs, sink=events.append, clock=lambda: 0.0, cancellation=cancellation)


def test_O2_files_go_everywhere_also_when_one_place_refuses_them() -> None:
    events: list[Event] = []
    outputs = [Files("one", NoSpace("full", "")), Files("two"), Files("three", OSError("broken"))]
    with Cancellation() as cancellation:
        delivery = files_delivery(outputs, events, cancellation)
        delivery.write({PLATFORM: EmptyTree()})
        assert [one.written for one in outputs] == [0, 1, 0]
        with pytest.raises(NoSpace) as caught:
            delivery.end()
    assert caught.value.message == "full; broken"
    failed = [event.name for event in events if isinstance(event, VertexFailed)]
    assert failed == ["one", "three"]


def test_files_of_a_build_that_began_again_go_to_each_place_once() -> None:
    """What is on stdout cannot be taken back."""
    outputs = [Files("one"), Files("two", BlobCorrupt("damaged", "")), Files("three")]
    with Cancellation() as cancellation:
        delivery = files_delivery(outputs, [], cancellation)
        with pytest.raises(BlobCorrupt):
            delivery.write({PLATFORM: EmptyTree()})
        delivery.write({PLATFORM: EmptyTree()})
        delivery.write({PLATFORM: EmptyTree()})
        delivery.end()
    assert [one.written for one in outputs] == [1, 1, 1]


def test_O2_files_of_several_platforms_are_in_directories_of_theirs_or_together() -> None:
    trees: dict[Platform, Tree] = {
        Platform("linux", "amd64"): ChangesetTree([Entry("a", Kind.FILE)]),
        Platform("linux", "arm", "v7"): ChangesetTree([Entry("b", Kind.FILE)]),
    }
    seen: list[list[str]] = []

    class Seeing(Files):
        def write(self, tree: Tree, check: Callable[[], None]) -> None:
            seen.append([entry.path for entry in everything(tree)])

    outputs: list[Files] = [Seeing("apart"), Seeing("together")]
    outputs[0].split = True
    with Cancellation() as cancellation:
        files_delivery(outputs, [], cancellation).write(trees)
        alone = [Seeing("alone")]
        files_delivery([*alone], [], cancellation).write({PLATFORM: trees[PLATFORM]})
    assert seen == [
        ["", "linux_amd64", "linux_amd64/a", "linux_arm_v7", "linux_arm_v7/b"],
        ["", "a", "b"],
        ["", "a"],
    ]


@pytest.mark.parametrize("error", [Cancelled(), BrokenPipeError()])
def test_a_reader_that_has_gone_ends_the_build(error: Exception) -> None:
    outputs = [Files("one", error), Files("two")]
    with Cancellation() as cancellation, pytest.raises(type(error)):
        files_delivery(outputs, [], cancellation).write({PLATFORM: EmptyTree()})
    assert outputs[1].written == 0
