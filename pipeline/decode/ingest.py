"""Planned rows -> shards at every rate, and the rows with their verdicts.

The unit of work is a shard at all its rates: which videos it holds is settled before anything is decoded, so the
bytes do not depend on how many processes work, on which machines, or in which order they finish. A finished shard
stays in the folder `work` with a receipt, and a run that is killed carries on from there:

    work/25/train-00000.tar     the same under 15 and 10
    work/train-00000.json       the receipt, written last: what it was made from, its sizes, its rows
    work/making-…/              a shard being made; not looked at by another run

Machines share the folders `work` and those of the videos.
"""

import hashlib
import inspect
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from pipeline.clips.shards import RATES, ShardFile
from pipeline.datasets.table import sample_key
from pipeline.decode.container import VideoError
from pipeline.decode.plan import BAD, GOOD, DecodeConfig, Row
from pipeline.decode.resample import resample
from pipeline.decode.video import DecodedVideo, decode, ffmpeg_version
from pipeline.processes import end_with_parent
from pipeline.results import replacing, sha256_of

# Read when it is imported: a worker that has been running since before an edit still runs the old code.
_FILES = (*sorted(Path(__file__).parent.glob("*.py")), *map(Path, map(inspect.getfile, (ShardFile, sample_key))))
_CODE = [sha256_of(file) for file in _FILES]
TRANSIENT = {"changed", "unreadable", "time limit"}  # reasons that another run may not meet


@dataclass(frozen=True)
class Task:
    """A shard to be made. tools: what the bytes depend on beside videos and config (`tools_digest`)."""

    shard: str
    rows: Sequence[Row]
    paths: Sequence[Path]
    work: Path
    config: DecodeConfig
    tools: str

    @property
    def receipt(self) -> Path:
        return self.work / Path(self.shard).with_suffix(".json")

    def tar(self, rate: int) -> Path:
        return self.work / str(rate) / self.shard

    def key(self) -> str:
        """Digest of all that the shard's bytes and rows depend on."""
        config = replace(self.config, executor="processes", scheduler=None, max_bad_fraction=0.0)
        return hashlib.sha256(repr((self.rows, config, self.tools)).encode("utf-8", "surrogateescape")).hexdigest()


def ingest(rows: Sequence[Row], paths: Mapping[str, Path], config: DecodeConfig, *, work: Path) -> list[Row]:
    """Decodes the rows' good videos (paths: video -> file) into shards in the folder `work`; returns all rows, sorted.

    `publish` takes the shards from there. Raises OSError when the disk is full and RuntimeError when a process was
    killed; then run again to carry on.
    """
    tasks = _tasks(rows, paths, work.absolute(), config)
    finished = {task.shard: found for task in tasks if (found := _finished(task)) is not None}
    planned = {task.shard for task in tasks}
    for rate in RATES:
        (work / str(rate)).mkdir(parents=True, exist_ok=True)
        for tar in (work / str(rate)).glob("*.tar"):
            if tar.name not in planned:  # of a run with other settings
                tar.unlink()
    for left in work.glob("making-*"):
        shutil.rmtree(left, ignore_errors=True)  # a killed run's decoder may still be writing there
    if finished:
        print(f"carrying on: {len(finished)} of {len(tasks)} shards are in {work}")
    # The largest first, so that no worker is left alone with one at the end.
    todo = [task for task in tasks if task.shard not in finished]
    todo.sort(key=lambda task: sum(row.bytes for row in task.rows), reverse=True)
    videos = sum(len(task.rows) for task in todo)
    with closing(_run(todo, config)) as shards, tqdm(total=videos, desc="decode", unit="video") as progress:
        for task, made, making in shards:
            accept_shard(task, made, making)
            finished[task.shard] = made
            progress.update(len(made))
            progress.set_postfix(bad=sum(row.verdict == BAD for rows in finished.values() for row in rows))
    decoded = [row for made in finished.values() for row in made]
    return sorted([row for row in rows if not row.shard] + decoded, key=lambda row: row.video)


def tools_digest() -> str:
    """Digest of the code that makes a shard, and of the versions of what opens, decodes and encodes."""
    versions = [ffmpeg_version(), *(f"{name} {version(name)}" for name in ("av", "simplejpeg"))]
    return hashlib.sha256(repr((_CODE, versions)).encode()).hexdigest()


def _tasks(rows: Sequence[Row], paths: Mapping[str, Path], work: Path, config: DecodeConfig) -> list[Task]:
    shards: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.video):
        if row.shard:
            shards.setdefault(row.shard, []).append(row)
    tools = tools_digest()
    return [
        Task(shard, members, [paths[row.video].absolute() for row in members], work, config, tools)
        for shard, members in sorted(shards.items())
    ]


def _finished(task: Task) -> list[Row] | None:
    """The rows of a shard made earlier from the same videos, config and tools; None when there is none."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):  # no receipt, or not one of ours
        receipt = json.loads(task.receipt.read_text(encoding="utf-8"))
        sizes = {rate: task.tar(int(rate)).stat().st_size for rate in receipt["sizes"]}
        rows = [Row(**row) for row in receipt["rows"]]
        fits = receipt["key"] == task.key() and sizes == receipt["sizes"]
        if fits and TRANSIENT.isdisjoint(row.reason for row in rows):
            return rows
    return None


def accept_shard(task: Task, rows: Sequence[Row], making: Path) -> None:
    """Makes a worker's tars the shard, once the disk has them: here, while the workers go on."""
    task.receipt.unlink(missing_ok=True)  # of an earlier run: it must not vouch for these
    sizes = {}
    for rate in RATES:
        made = making / f"{rate}.tar"
        if any(row.verdict == GOOD for row in rows):
            sizes[str(rate)] = _sync(made)
            made.replace(task.tar(rate))
        else:
            task.tar(rate).unlink(missing_ok=True)
    with replacing(task.receipt) as unfinished:
        receipt = {"key": task.key(), "sizes": sizes, "rows": [vars(row) for row in rows]}
        unfinished.write_text(json.dumps(receipt), encoding="utf-8")
        _sync(unfinished)
    shutil.rmtree(making)


def _sync(file: Path) -> int:
    """Waits until the disk has the file; its bytes. OSError when it cannot take it."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        return os.fstat(stream.fileno()).st_size


def publish(shards: Collection[str], work: Path, out: Path) -> None:
    """Puts these of the shards that `ingest` made into out/25, out/15 and out/10, in place of others, by links: they
    stay in `work` too, should the run end here."""
    for rate in RATES:
        for old in (out / str(rate)).glob("*.tar"):
            old.unlink()
        for shard in sorted(shards):
            made = work / str(rate) / shard
            with replacing(out / str(rate) / shard) as unfinished:
                unfinished.unlink(missing_ok=True)  # a link cannot replace what a killed run left
                try:
                    os.link(made, unfinished)
                except OSError:  # another disk, or one without links
                    shutil.copyfile(made, unfinished)


# --- who does the work -----------------------------------------------------------------------------------------------


def _run(tasks: Sequence[Task], config: DecodeConfig) -> Iterator[tuple[Task, list[Row], Path]]:
    """Every task with its rows and the folder of its tars, as they are finished."""
    if not tasks:
        return
    with _executor(config) as pool:
        futures: dict[Future, Task] = {pool.submit(make_shard, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], *future.result()


@contextmanager
def _executor(config: DecodeConfig) -> Iterator[Executor]:
    killed = "a decoding process was killed, by hand or for want of memory; run again to carry on"
    if config.executor == "dask":
        import distributed  # slow, and only needed here

        try:
            client = distributed.Client(config.scheduler, timeout="10s")
        except (OSError, ValueError) as error:
            raise RuntimeError(f"decode.scheduler: no dask scheduler at {config.scheduler} ({error})") from error
        try:
            client.wait_for_workers(1, timeout="60s")
        except TimeoutError as error:
            client.close()
            raise RuntimeError(f"decode.scheduler: {config.scheduler} has had no worker for 60 s") from error
        with client, client.get_executor(pure=False) as pool:
            try:
                yield pool
            except distributed.KilledWorker as error:  # several workers, one after the other, on the same shard
                raise RuntimeError(killed) from error
            except CancelledError as error:
                raise RuntimeError(
                    f"the dask scheduler at {config.scheduler} is gone; run again to carry on"
                ) from error
            finally:
                pool.shutdown(wait=False)  # which cancels what is not done
    else:
        # A clean server process imports this module once and forks the workers, which then start at once; a fork of
        # this process might inherit a locked lock.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "pandas"])  # which the main module needs, and so each worker
        cores = len(os.sched_getaffinity(0))
        with ProcessPoolExecutor(cores, mp_context=context, initializer=_start_worker, initargs=(os.getpid(),)) as pool:
            try:
                yield pool
            except BrokenProcessPool as error:
                raise RuntimeError(killed) from error
            except BaseException:  # an error, Ctrl-C: the pool would wait for the shards that are being made
                for worker in multiprocessing.active_children():
                    worker.terminate()
                raise
            finally:
                # Waits for the pool's own thread. One that is still closing its pipes when the interpreter exits may
                # be woken through them there, and a traceback follows the message.
                pool.shutdown(cancel_futures=True)


def _start_worker(parent: int) -> None:
    """Ctrl-C is for the parent to act on. A worker that ends takes its decoder with it, which may hang."""

    def end(*_: object) -> None:
        try:
            for children in Path("/proc/self/task").glob("*/children"):
                for child in children.read_text().split():
                    os.kill(int(child), signal.SIGKILL)
        finally:
            os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
    end_with_parent(parent)


# --- one shard -------------------------------------------------------------------------------------------------------


def make_shard(task: Task) -> tuple[list[Row], Path]:
    """Decodes the task's videos into tars in a folder of their own; returns the rows with the verdicts, and it."""
    if tools_digest() != task.tools:
        raise RuntimeError("this worker's code or ffmpeg is not that of the run; start the workers from the same tree")
    making = Path(tempfile.mkdtemp(prefix="making-", dir=task.work))
    try:
        return _write_tars(task, making), making
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise


def _write_tars(task: Task, making: Path) -> list[Row]:
    rows, tars = [], {rate: ShardFile(making / f"{rate}.tar") for rate in RATES}
    for row, path in zip(task.rows, task.paths, strict=True):
        try:
            video = _decode_verified(row, path, making, task.config)
        except VideoError as error:
            rows.append(replace(row, verdict=BAD, reason=error.reason, detail=error.detail, shard=""))
            continue
        chosen = {rate: resample(video.pts, video.track.tick, rate) for rate in RATES}
        for rate, frames in chosen.items():
            _add(tars[rate], row, video, frames, rate=rate)
        rows.append(_described(row, video, {f"frames_{rate}": len(frames) for rate, frames in chosen.items()}))
    for tar in tars.values():
        tar.close()
    return rows


def _decode_verified(row: Row, path: Path, scratch: Path, config: DecodeConfig) -> DecodedVideo:
    """Decodes the file that the index lists; another content under its name is refused, and so is half a video."""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise VideoError("unreadable", "no regular file any more")
        digest = sha256_of(path)
    except OSError as error:
        raise VideoError("unreadable", error.strerror or str(error)) from error
    if digest != row.sha256:
        raise VideoError("changed", "content differs from the index; index it again with: dvc repro -f -s fetch")
    video = decode(
        path, scratch, height=config.height, width=config.width, quality=config.jpeg_quality, timeout_s=config.timeout_s
    )
    size = row.bytes + video.track.missing_bytes
    if video.track.missing_bytes > config.max_missing_fraction * size:
        raise VideoError("truncated", f"{row.bytes} of the {size} bytes that its header promises")
    missing, damaged = video.missing_frames, video.damaged_frames
    if missing + damaged > config.max_missing_fraction * (len(video) + missing):
        if damaged > missing:
            raise VideoError("damaged", f"{video.complaint} ({damaged} of {len(video)} frames damaged)")
        raise VideoError("truncated", f"{len(video)} of its {len(video) + missing} frames are left")
    return video


def _add(tar: ShardFile, row: Row, video: DecodedVideo, frames: Sequence[int], *, rate: int) -> None:
    starts, sizes = video.offsets[frames].tolist(), (video.offsets[frames + 1] - video.offsets[frames]).tolist()
    with video.frames.open("rb", buffering=0) as stream:
        tar.add(
            sample_key(row.video),
            (os.pread(stream.fileno(), size, start) for start, size in zip(starts, sizes, strict=True)),
            sizes,
            action=row.action,
            label=row.label,
            group=row.group,
            clip=row.clip,
            fps=rate,
            source_sha256=row.sha256,
        )


def _described(row: Row, video: DecodedVideo, counts: Mapping[str, int]) -> Row:
    return replace(
        row,
        detail=video.complaint,
        codec=video.track.codec,
        packed=video.packed,
        rate=str(video.fps),
        height=video.track.height,
        width=video.track.width,
        hdr=video.track.hdr,
        tracks=video.track.tracks,
        frames=len(video),
        header_frames=video.header_frames,
        damaged_frames=video.damaged_frames,
        late_frames=video.late_frames,
        near_duplicates=video.near_duplicates,
        steady=video.steady,
        missing_bytes=video.track.missing_bytes,
        **counts,
    )
