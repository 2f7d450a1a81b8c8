"""The only place that updates weights."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import runs, sample
from ..augment import Augment, Door
from ..batches import Batches
from ..config import RunConfig
from ..errors import InputError, Interrupted
from ..gans.base import Batch, Loss, Networks, Step, freeze
from ..prepare.manifest import Dataset
from ..ranks import Ranks
from ..refs import CheckpointRef
from ..rng import StepRng
from ..seeds import derive_seed
from ..storage import Store
from ..wording import check_captions
from . import alarms, ending
from .checkpoint import Progress, Sections, computes_bf16, load_checkpoint, machine_facts, write_checkpoint
from .ema import Ema
from .metrics import MetricsLog
from .optimizers import apply_schedules, build_optimizer, load_optimizer_tensors, optimizer_tensors
from .pictures import snapshot_picture
from .upload import Uploader

log = logging.getLogger(__name__)

LossFunction = Callable[[Networks, Batch, Step], Loss]


class Stop(Protocol):
    """Somebody who may ask training to end."""

    @property
    def requested(self) -> bool: ...

    @property
    def reason(self) -> str: ...


class Trainer:
    """Trains one run: networks, optimizers, schedules, augmentation, moving average, checkpoints."""

    def __init__(
        self, config: RunConfig, dataset: Dataset, run_id: str, store: Store, work: Path, ranks: Ranks | None = None
    ):
        """`work` is a local folder for what is not in the store yet; `ranks` this process among those that train.

        Raises InputError when recipe and data do not fit.
        """
        assert isinstance(config.train.seed, int) and config.train.optimizers is not None, "the config is resolved"
        self.config, self.train = config, config.train
        self.run_id, self.store, self.work = run_id, store, work
        self.uploads = Uploader(store, run_id, work)
        self.seed = config.train.seed
        self.ranks = ranks or Ranks()
        self.bf16 = config.train.precision == "bf16" and computes_bf16(self.ranks.device)
        if config.train.precision == "bf16" and not self.bf16 and self.ranks.is_main:
            log.warning("this machine has no instructions for bf16: train.precision is fp32 here, which is far faster")
        self.device = self.ranks.device
        self.dataset, self.spec = dataset, dataset.spec()
        self.gan = config.recipe()
        shown = self.train.mirror, self.train.jitter
        self.batches = Batches(dataset, self.gan.columns(self.spec), "train", self.seed, self.device, *shown)
        self.progress = Progress()

        torch.manual_seed(derive_seed("init", self.seed))
        raw = self.gan.build_networks(self.spec)
        if "caption" in self.batches.columns:
            check_captions(dataset, self.gan.check_text)
        self.generator = sample.placed(raw.generator, self.device)
        self.ema = Ema(self.generator)
        self.g_optimizer = build_optimizer(config.train.optimizers.generator, self.generator.parameters())
        self.discriminator, self.d_optimizer = raw.discriminator, None
        self.nets = Networks(self.generator, None)
        if raw.discriminator is not None:
            assert config.train.optimizers.discriminator is not None
            self.discriminator = sample.placed(raw.discriminator, self.device)
            self.d_optimizer = build_optimizer(config.train.optimizers.discriminator, self.discriminator.parameters())
            self.augment = Augment(config.train.augment, self.train.batch, self.device)
            self.door = Door(self.discriminator, self.augment)
            self.nets.discriminator = self.door
        self.ranks.same(self._weights())
        self.metrics: MetricsLog | None = None

    # --- the loop --------------------------------------------------------------------------------------------------

    def fit(self, stop: Stop) -> CheckpointRef:
        """Train until a limit of `train.stop` or alarms of `train.stop_on`, from where the run stands.

        Returns its last checkpoint, uploaded. Raises Interrupted, after a checkpoint, when `stop` is requested;
        NonFinite when a loss or gradient is; StillWaiting when the store took no more checkpoints in the end.
        """
        newest = self._newest_checkpoint()
        saved_images = newest.images_seen if newest else -1
        self.metrics = self._open_metrics()
        deadline = ending.deadline(self.train.stop, datetime.now(UTC))
        clock, logged_images, busy = time.monotonic(), self.progress.images_seen, 0.0
        stopped, finished = self.ranks.any(False, self._over(deadline))
        with self.uploads if self.ranks.is_main else nullcontext(), self._progress_bar() as bar:
            while not finished:
                before = self.progress.images_seen
                self.step()
                now = time.monotonic()
                busy += now - clock
                self._advance(now - clock)
                clock = now
                self._show(bar)
                stopped, finished = self.ranks.any(stop.requested, self._over(deadline))
                snapshot = self._crossed(before, self.train.snapshot_kimg)
                if snapshot or self._crossed(before, self.train.log_every_kimg) or stopped:
                    self._write_metrics(bar, (self.progress.images_seen - logged_images) / busy)
                    logged_images, busy = self.progress.images_seen, 0.0
                if snapshot or stopped:
                    self.snapshot(regular=snapshot)
                    saved_images = self.progress.images_seen
                    self._advance(time.monotonic() - clock)
                    (finished,) = self.ranks.any(self._over(deadline))  # by alarms
                if stopped:
                    reason = next(filter(None, self.ranks.gather(stop.reason)))
                    raise Interrupted(
                        f"{reason}: run {self.run_id} stopped at {self.progress.images_seen / 1000:.1f} kimg "
                        f"with a checkpoint; `ganpipe train --resume {self.run_id}` continues it"
                    )
                clock = time.monotonic()
            if saved_images < self.progress.images_seen:
                if busy:
                    self._write_metrics(bar, (self.progress.images_seen - logged_images) / busy)
                self.snapshot(regular=False)
        newest = self.ranks.from_main(lambda: self.uploads.newest or newest)
        assert newest is not None
        return newest

    def step(self) -> None:
        """One step: the D phase, the G phase, the moving average."""
        plan = self.gan.plan(self.progress.steps)
        images_before = position = self.progress.images_seen
        self._schedule(position)
        for number in range(plan.d_updates):
            position = images_before + number * self.train.batch
            self._update("discriminator", number, position)
        for number in range(plan.g_updates):
            self._update("generator", number, position)
        shown = max(plan.d_updates, 1) * self.train.batch
        if plan.g_updates:
            self.ema.update(self.generator, shown, self.train.ema_half_life_kimg.at(images_before))
        self.progress = self.progress.model_copy(
            update={"images_seen": images_before + shown, "steps": self.progress.steps + 1}
        )

    def _update(self, phase: str, number: int, position: int) -> None:
        """One optimizer update of one network, over this rank's micro-batches."""
        of_generator = phase == "generator"
        network, other = (self.generator, self.discriminator) if of_generator else (self.discriminator, self.generator)
        optimizer = self.g_optimizer if of_generator else self.d_optimizer
        loss_function: LossFunction = self.gan.generator_loss if of_generator else self.gan.discriminator_loss
        assert network is not None and optimizer is not None
        freeze(network, False)
        if other is not None:
            freeze(other, True)
        micro_batches = self._my_micro_batches()
        share = len(micro_batches) * self.ranks.count
        stats: list[dict[str, Tensor]] = []
        for rows in micro_batches:
            step = self._step_at(f"{phase[0]}{number}", position, rows)
            with self._autocast():
                loss = loss_function(self.nets, self.batches.at(position, self.train.batch, rows), step)
            (loss.total / share).backward()
            self._log(phase, {"loss": loss.total.detach(), **loss.logs})
            stats.append(loss.stats)
        means = {name: torch.stack([entry[name] for entry in stats]).sum() / share for name in stats[0]}
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        self.ranks.add_up([*gradients, *means.values()])
        self._log(phase, {"grad_norm": torch.nn.utils.get_total_norm(gradients)})
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if not of_generator:
            self.gan.constrain(network)
            self._log("augment", self.augment.observe(means))
        self.gan.observe(means, step)

    def _step_at(self, update: str, position: int, rows: slice) -> Step:
        rng = StepRng(self.seed, position, update, self.train.batch, rows, self.device)
        torch.manual_seed(rng.torch_seed())
        if self.discriminator is not None:
            self.door.open(rng)
        return Step(position, self.progress.steps, self.train.batch, rows.stop - rows.start, rng)

    def _my_micro_batches(self) -> list[slice]:
        size = self.train.micro_batch_size()
        count = self.train.batch // (size * self.ranks.count)
        first = self.ranks.index * count
        return [slice(number * size, (number + 1) * size) for number in range(first, first + count)]

    def _autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _schedule(self, images_seen: int) -> None:
        assert self.train.optimizers is not None
        apply_schedules(self.g_optimizer, self.train.optimizers.generator, images_seen)
        if self.d_optimizer is not None and self.train.optimizers.discriminator is not None:
            apply_schedules(self.d_optimizer, self.train.optimizers.discriminator, images_seen)
            self.augment.schedule(images_seen)

    # --- progress --------------------------------------------------------------------------------------------------

    def _advance(self, seconds: float) -> None:
        spent, on_devices = self.progress.seconds + seconds, self.progress.device_seconds + seconds * self.ranks.count
        self.progress = self.progress.model_copy(update={"seconds": spent, "device_seconds": on_devices})

    def _crossed(self, before: int, every_kimg: float) -> bool:
        """Whether a multiple of `every_kimg` lies between `before` and now."""
        every = every_kimg * 1000
        return before // every < self.progress.images_seen // every

    def _over(self, deadline: datetime | None) -> bool:
        return ending.is_over(self.train.stop, self.progress, deadline)

    def _progress_bar(self) -> tqdm:
        total = None if self.train.stop.kimg is None else round(self.train.stop.kimg * 1000)
        return tqdm(
            total=total,
            initial=self.progress.images_seen,
            desc="training",
            unit="img",
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10,
            smoothing=0.1,
            disable=not self.ranks.is_main,
        )

    def _show(self, bar: tqdm) -> None:
        bar.update(self.progress.images_seen - bar.n)

    def _log(self, phase: str, values: dict[str, Tensor]) -> None:
        if self.metrics is not None:
            self.metrics.add({f"{phase}/{name}": value for name, value in values.items()}, self.progress.steps)

    def _write_metrics(self, bar: tqdm, images_per_second: float) -> None:
        assert self.metrics is not None
        means = self.ranks.mean(self.metrics.means())
        bar.set_postfix(
            {"D": f"{means.get('discriminator/loss', 0):.3f}", "G": f"{means.get('generator/loss', 0):.3f}"}, False
        )
        images_seen = self.progress.images_seen
        progress = {
            "progress/kimg": images_seen / 1000,
            "progress/images_per_second": images_per_second,
            "progress/device_hours": self.progress.device_seconds / 3600,
        }
        if self.ranks.is_main:
            self.metrics.write(images_seen, self.progress.seconds, {**means, **progress})

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def snapshot(self, *, regular: bool = True) -> None:
        """Hand over to be uploaded: a checkpoint, and a picture of samples of the same noise as ever.

        `regular` ones are looked at for `train.stop_on`: one more, where a run was interrupted, changes nothing.
        """
        recipe = self.gan.state_dict()
        rank_states = self.ranks.gather(recipe["rank"])
        if not self.ranks.is_main:
            return
        sample.refresh_batch_norm(self.gan, self.ema.module, self.device)
        if self.train.stop_on and regular:
            self.progress = alarms.looked_at(self.progress, self.gan, self.ema.module, self.dataset, self.device)
        images_seen = self.progress.images_seen
        with self.uploads.new_snapshot(images_seen) as snapshot:
            picture = snapshot_picture(self.gan, self.ema.module, self.discriminator, self.dataset, self.device)
            snapshot.grid.write_bytes(picture)
            generator_file = snapshot.checkpoint / "generator.safetensors"
            sample.save_generator(generator_file, self.gan, self.ema.module, self.spec, self.run_id, images_seen)
            sections = {**self._sections(), "recipe": recipe["shared"]}
            write_checkpoint(snapshot.checkpoint, sections, rank_states, self.progress)

    def _open_metrics(self) -> MetricsLog:
        """The run's metrics so far; the store's copy is as new as the newest checkpoint, a machine's own may not be."""
        if not self.ranks.is_main:
            return MetricsLog(None, self.progress.images_seen)
        path, key = self.work / "metrics.jsonl", f"runs/{self.run_id}/metrics.jsonl"
        with suppress(FileNotFoundError):
            path.write_bytes(self.store.read_bytes(key))
        return MetricsLog(path, self.progress.images_seen)

    def _weights(self) -> list[Tensor]:
        networks = [self.generator, self.ema.module, *([self.discriminator] if self.discriminator is not None else [])]
        return [tensor for network in networks for tensor in network.state_dict().values()]

    def _sections(self) -> Sections:
        sections = {
            "generator": self.generator.state_dict(),
            "generator_optimizer": optimizer_tensors(self.g_optimizer),
        }
        if self.discriminator is not None and self.d_optimizer is not None:
            sections["discriminator"] = self.discriminator.state_dict()
            sections["discriminator_optimizer"] = optimizer_tensors(self.d_optimizer)
            sections["augment"] = self.augment.state_dict()
        return sections

    def _newest_checkpoint(self) -> CheckpointRef | None:
        """Continue from the newest sound checkpoint of this run, if there is one."""
        ref = self.ranks.from_main(lambda: next(runs.sound_checkpoints(self.store, self.run_id), None))
        if ref is None:
            return None
        sections, rank_state, moving_average, facts = load_checkpoint(self.store, ref, self.ranks.index)
        self._load_networks(sections, ref)
        load_optimizer_tensors(self.g_optimizer, sections.get("generator_optimizer", {}))
        if self.d_optimizer is not None:
            load_optimizer_tensors(self.d_optimizer, sections.get("discriminator_optimizer", {}))
            self.augment.load_state_dict(sections.get("augment", {}))
        self.ema.module.load_state_dict(moving_average)
        self.gan.load_state_dict({"shared": sections.get("recipe", {}), "rank": rank_state})
        self.progress = Progress(**{name: facts[name] for name in Progress.model_fields if name in facts})
        here = machine_facts(self.ranks.count)
        for name, now in here.items():
            if facts.get(name, now) != now:
                log.warning(
                    "%s was %s at the checkpoint and is %s now: the run goes on, but not bit for bit",
                    name,
                    facts[name],
                    now,
                )
        log.info("resuming %s from images_seen=%d", self.run_id, self.progress.images_seen)
        return ref

    def warm_start(self, ref: CheckpointRef) -> None:
        """Take the weights of another run's checkpoint; optimizers, schedules and progress start afresh."""
        sections, _, moving_average, _ = load_checkpoint(self.store, ref, self.ranks.index)
        self._load_networks(sections, ref)
        self.ema.module.load_state_dict(moving_average)
        log.info("starting from the weights of %s at %.1f kimg", ref.run_id, ref.images_seen / 1000)

    def _load_networks(self, sections: dict[str, dict[str, Tensor]], ref: CheckpointRef) -> None:
        networks: list[tuple[str, nn.Module | None]] = [
            ("generator", self.generator),
            ("discriminator", self.discriminator),
        ]
        for name, module in networks:
            if module is None:
                continue
            try:
                module.load_state_dict(sections[name])
            except (KeyError, RuntimeError) as error:
                raise InputError(
                    f"{ref.prefix} holds another {name} than the gan section describes: {error}"
                ) from error
