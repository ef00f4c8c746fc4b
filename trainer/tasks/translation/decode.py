"""Writing a translation: greedy, beam search, and sampling; the same tokens whatever else is in the batch.

    log p -> whole numbers of 2^-26 nats -> sums are exact, ties are ties, and the lowest hypothesis and id win them

`<pad>` and `<bos>` are never written. Shapes: b sentences, g hypotheses of each, n = b * g rows, v classes, t tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.tasks.translation.steppers import Stepper
from trainer.tasks.translation.vocabulary import BOS, EOS, PAD

_UNIT = 2.0**-26
"""Nats; far above the noise of double precision, far below any difference that means something."""
_NEVER = -(1 << 41)
"""Worse than any sum of log-probabilities that can be reached, in units."""


@dataclass(frozen=True)
class DecodeOptions:
    """What decoding may do; `max_len` counts written tokens, `<eos>` among them."""

    beam_size: int = 1
    alpha: float = 0.6
    """Length penalty: a hypothesis of n tokens scores log P / ((5 + n) / 6)^alpha (Wu et al. 2016)."""
    no_repeat_ngram: int = 0
    min_len: int = 0
    """Tokens before `<eos>` at least."""
    max_len: int = 127
    num_best: int = 1
    """Hypotheses wanted of each sentence, at most `beam_size`."""


@dataclass(frozen=True)
class Hypothesis:
    """A translation in ids."""

    score: float
    """log P over the length penalty."""
    log_probability: float
    tokens: tuple[int, ...]
    """Without `<bos>` and `<eos>`."""
    is_complete: bool = True
    """Ended by `<eos>`, not by the limit."""


def length_penalty(num_tokens: int, alpha: float) -> float:
    """((5 + n) / 6)^alpha for n written tokens, `<eos>` among them."""
    return float(((5.0 + num_tokens) / 6.0) ** alpha)


def limits_of(source_ids: Tensor, max_len: int) -> list[int]:
    """The most tokens that each sentence may get: min(`max_len`, 2 s + 10), s its own length without padding."""
    return [min(max_len, 2 * length + 10) for length in (source_ids != PAD).sum(1).tolist()]


def decode(stepper: Stepper, source_ids: Tensor, options: DecodeOptions) -> list[list[Hypothesis]]:
    """The best hypotheses of each of `source_ids` `[b, s]`, best first; greedy for a beam of one."""
    limits = limits_of(source_ids, options.max_len)
    with torch.no_grad():
        if options.beam_size == 1:
            return [[one] for one in greedy(stepper, limits, options, source_ids.device)]
        return beam_search(stepper, limits, options, source_ids.device)


def greedy(
    stepper: Stepper,
    limits: Sequence[int],
    options: DecodeOptions,
    device: torch.device,
    choose: Callable[[Tensor], Tensor] | None = None,
) -> list[Hypothesis]:
    """The likeliest token at every place (or what `choose` makes of the units `[n, v]`) up to `<eos>` or the limit."""
    done: list[Hypothesis | None] = [None] * len(limits)
    places = list(range(len(limits)))
    history = torch.full((len(limits), 1), BOS, device=device)
    scores = torch.zeros(len(limits), dtype=torch.int64, device=device)
    while places:
        units = next_units(stepper, history, options)
        ids = units.argmax(1) if choose is None else choose(units)
        scores = scores + units.gather(1, ids[:, None])[:, 0]
        history = torch.cat([history, ids[:, None]], 1)
        length, staying = history.shape[1] - 1, []
        for row, (token, place) in enumerate(zip(ids.tolist(), places, strict=True)):
            if token != EOS and length < limits[place]:
                staying.append(row)
                continue
            done[place] = _hypothesis(history[row], int(scores[row]), options.alpha)
        if len(staying) < len(places):
            rows = torch.tensor(staying, dtype=torch.int64, device=device)
            places = [places[row] for row in staying]
            history, scores = history[rows], scores[rows]
            stepper.select(rows, rows)
    return [one for one in done if one is not None]


def beam_search(
    stepper: Stepper, limits: Sequence[int], options: DecodeOptions, device: torch.device
) -> list[list[Hypothesis]]:
    """The `num_best` best of each sentence.

    Every step keeps the g best unfinished continuations; one that ends among the g best is finished. A sentence is
    done when nothing unfinished can still beat the last finished one that is wanted: log P only falls and the penalty
    is greatest at the limit, so log P / penalty(limit) is all that can be reached. To stop at g finished ones would
    be wrong: beside a sure token all others are alike, `<eos>` among them, and the beam fills up with stumps.
    """
    beams = _Beams(len(limits), options, device)
    finished: list[list[Hypothesis]] = [[] for _ in limits]
    while beams.places:
        units = next_units(stepper, beams.rows(), options)
        rows_bg, ended = beams.extend(units)
        for position, hypothesis in ended:
            finished[beams.places[position]].append(hypothesis)
        staying = []
        for position, (place, best) in enumerate(zip(beams.places, beams.best_scores(), strict=True)):
            if not _is_over(finished[place], best, beams.length, limits[place], options):
                staying.append(position)
            elif (num_missing := options.num_best - len(finished[place])) > 0:
                finished[place] += beams.unfinished(position)[:num_missing]
        if len(staying) == len(beams.places):
            stepper.select(None, rows_bg.flatten())
        else:
            chosen = beams.keep(staying)
            stepper.select(chosen, rows_bg[chosen].flatten())
    return [_best_first(found)[: options.num_best] for found in finished]


def _is_over(finished: list[Hypothesis], best: int, length: int, limit: int, options: DecodeOptions) -> bool:
    if length >= limit or best <= _NEVER:
        return True
    if len(finished) < options.num_best:
        return False
    if options.beam_size == 1:
        return True  # greedy: what follows the likeliest token is all there is
    reachable = best * _UNIT / length_penalty(limit, options.alpha)
    return sorted((one.score for one in finished), reverse=True)[options.num_best - 1] >= reachable


def _best_first(found: list[Hypothesis]) -> list[Hypothesis]:
    """Complete ones before those that the limit cut off."""
    return sorted(found, key=lambda one: (not one.is_complete, -one.score))


class _Beams:
    """The unfinished hypotheses of a beam search: up to g of each sentence, best first (one in the first step)."""

    def __init__(self, num_sentences: int, options: DecodeOptions, device: torch.device) -> None:
        self.places = list(range(num_sentences))
        """Which sentence of the batch each position holds; the others are done."""
        self.length = 0
        self._group, self._alpha = options.beam_size, options.alpha
        self._history_bgt = torch.full((num_sentences, 1, 1), BOS, device=device)
        self._scores_bg = torch.zeros(num_sentences, 1, dtype=torch.int64, device=device)

    def rows(self) -> Tensor:
        """Tokens so far `[n, t]`, `<bos>` first."""
        return self._history_bgt.flatten(0, 1)

    def extend(self, units: Tensor) -> tuple[Tensor, list[tuple[int, Hypothesis]]]:
        """Go on with the best continuations of `units` `[n, v]`.

        Returns the row `[b, g]` that each new hypothesis continues, and what ended with this step, by position.
        """
        scores, parent, token = self._best(units)
        ends = token == EOS
        ended = self._ended(ends[:, : self._group], scores, parent, token)
        # At most g of the 2 g best are <eos>, one for each parent, so g others are left.
        kept = ends.to(torch.int8).argsort(dim=1, stable=True)[:, : self._group]
        parent, token = parent.gather(1, kept), token.gather(1, kept)
        self._scores_bg = scores.masked_fill(ends, 2 * _NEVER).gather(1, kept)
        first_row_b = torch.arange(len(self.places), device=units.device)[:, None] * self._history_bgt.shape[1]
        grown = self._history_bgt.gather(1, parent[..., None].expand(-1, -1, self.length + 1))
        self._history_bgt = torch.cat([grown, token[..., None]], 2)
        self.length += 1
        return parent + first_row_b, ended

    def _best(self, units: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sum, parent and token of the 2 g best continuations of each sentence, best first."""
        num_sentences, width = self._scores_bg.shape
        sums = (self._scores_bg[..., None] + units.view(num_sentences, width, -1)).clamp_(min=2 * _NEVER).flatten(1)
        size, num_classes = sums.shape[1], units.shape[1]
        # One whole number for sum and place makes the order unambiguous: topk promises nothing about ties.
        keys = sums * size + torch.arange(size - 1, -1, -1, device=units.device)
        best = keys.topk(min(2 * self._group, size), 1).values
        place = size - 1 - best.remainder(size)
        return best.div(size, rounding_mode="floor"), place // num_classes, place % num_classes

    def _ended(self, ends: Tensor, scores: Tensor, parent: Tensor, token: Tensor) -> list[tuple[int, Hypothesis]]:
        """Hypotheses by position that took `<eos>` where `ends` says so."""
        found = []
        for position, rank in ends.nonzero().tolist():
            score = int(scores[position, rank])
            if score > _NEVER:
                before = self._history_bgt[position, parent[position, rank]]
                tokens = torch.cat([before, token[position, rank : rank + 1]])
                found.append((position, _hypothesis(tokens, score, self._alpha)))
        return found

    def best_scores(self) -> list[int]:
        """Units of the likeliest unfinished hypothesis of every sentence."""
        found: list[int] = self._scores_bg[:, 0].tolist()
        return found

    def unfinished(self, position: int) -> list[Hypothesis]:
        """What a sentence has that did not come to an end, best first."""
        pairs = zip(self._history_bgt[position], self._scores_bg[position].tolist(), strict=True)
        return [_hypothesis(tokens, score, self._alpha) for tokens, score in pairs if score > _NEVER]

    def keep(self, positions: list[int]) -> Tensor:
        """Go on with some of the sentences only; their positions as a tensor."""
        chosen = torch.tensor(positions, dtype=torch.int64, device=self._history_bgt.device)
        self._history_bgt, self._scores_bg = self._history_bgt[chosen], self._scores_bg[chosen]
        self.places = [self.places[position] for position in positions]
        return chosen


def next_units(stepper: Stepper, history: Tensor, options: DecodeOptions) -> Tensor:
    """Log-probabilities int64 `[n, v]` in units after `history` `[n, t]`, those that may not be written far below."""
    logits = stepper.step(history[:, -1])
    units = (logits.log_softmax(-1) / _UNIT).round().clamp_(min=_NEVER).to(torch.int64)
    units[:, [PAD, BOS]] = 2 * _NEVER
    if history.shape[1] - 1 < options.min_len:
        units[:, EOS] = 2 * _NEVER
    if options.no_repeat_ngram and history.shape[1] > options.no_repeat_ngram:
        _forbid_repeats(units, history[:, 1:], options.no_repeat_ngram)
    return units


def _forbid_repeats(units: Tensor, history: Tensor, size: int) -> None:
    """Take out, in place, the tokens that would make an n-gram of `size` that `history` `[n, t]` has already."""
    grams = history.unfold(1, size, 1)
    latest = history[:, history.shape[1] - size + 1 :]
    again = (grams[..., :-1] == latest[:, None]).all(-1)
    row, gram = again.nonzero(as_tuple=True)
    units[row, grams[row, gram, -1]] = 2 * _NEVER


def _hypothesis(history: Tensor, score: int, alpha: float) -> Hypothesis:
    """A finished one out of its tokens, `<bos>` first."""
    tokens = history.tolist()[1:]
    log_probability = score * _UNIT
    is_complete = tokens[-1] == EOS
    return Hypothesis(
        log_probability / length_penalty(len(tokens), alpha),
        log_probability,
        tuple(tokens[:-1] if is_complete else tokens),
        is_complete,
    )


def sampler(
    generator: torch.Generator, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Callable[[Tensor], Tensor]:
    """A `choose` for `greedy` that draws; for exploring only, no metric uses it.

    From log p / `temperature`, among the `top_k` likeliest (0: all), and the smallest set with `top_p` of the mass.
    """

    def choose(units: Tensor) -> Tensor:
        log_p = torch.where(units > _NEVER, units * _UNIT / temperature, -torch.inf)
        ordered, ids = log_p.sort(dim=1, descending=True, stable=True)
        if top_k:
            ordered[:, top_k:] = -torch.inf
        share = ordered.softmax(1)
        share = share.masked_fill(share.cumsum(1) - share >= top_p, 0.0)
        drawn = torch.multinomial(share, 1, generator=generator)
        return ids.gather(1, drawn)[:, 0]

    return choose
