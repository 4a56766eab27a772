#!/usr/bin/env python3
"""Trains the bundled model: tokenizer, then weights, then the held-out bits per byte.

    train.py DIR [--seed N] [--steps N] [--stop N] [--resume]

DIR        holds corpus.jsonl (corpus.py writes it); tokenizer.json, state.npz and log.txt go there
--steps    optimizer steps of 6,144 tokens; the learning rate falls to 0 over the last 39 %, and
           from there on every sixth step reads windows of 2,048 tokens instead of 256
--stop     end after this many of them (default: all)
--resume   go on from DIR/state.npz; --steps may differ from before as long as the rate has not
           begun to fall, and the result is the same as if it had been so from the start

Matrices learn by Muon (momentum, then the nearest orthogonal matrix by Newton-Schulz), the
embedding and the norms by Adam.
"""
import argparse
import math
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import data
import model

SHORT = dict(n_rows=24, n_chat_rows=6, n_tokens=256)
LONG = dict(n_rows=3, n_chat_rows=1, n_tokens=2048)
LONG_EVERY_STEPS, DECAY_SHARE, WARMUP_STEPS = 6, 0.39, 15
MUON_RATE, MUON_MOMENTUM, MUON_DECAY = 0.02, 0.95, 0.05
ADAM_RATE, ADAM_BETA1, ADAM_BETA2 = 0.004, 0.9, 0.95
SAVE_EVERY_SECONDS, REPORT_EVERY_STEPS, EVAL_EVERY_STEPS = 240, 10, 100


def orthogonal(m):
    """The nearest matrix with equal singular values, roughly: five Newton-Schulz steps with the
    coefficients that push every singular value towards 1 fastest."""
    wide = m.T if m.shape[0] > m.shape[1] else m
    x = wide / (jnp.linalg.norm(wide) + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x.T if m.shape[0] > m.shape[1] else x


def is_muon(path, leaf):
    return leaf.ndim == 2 and path[0].key == "layers"


def make_step(config):
    def update(path, w, g, m, v, rate, step):
        if is_muon(path, w):
            m = MUON_MOMENTUM * m + g
            scale = math.sqrt(max(1.0, w.shape[0] / w.shape[1]))
            move = orthogonal(g + MUON_MOMENTUM * m) * scale + MUON_DECAY * w
            return w - MUON_RATE * rate * move, m, v
        m = ADAM_BETA1 * m + (1 - ADAM_BETA1) * g
        v = ADAM_BETA2 * v + (1 - ADAM_BETA2) * g * g
        move = (m / (1 - ADAM_BETA1 ** step)) / (jnp.sqrt(v / (1 - ADAM_BETA2 ** step)) + 1e-8)
        return w - ADAM_RATE * rate * move, m, v

    def train_step(state, tokens, rate, step):
        loss, grads = jax.value_and_grad(lambda w: model.loss(config, w, tokens))(state["w"])
        norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(grads)))
        grads = jax.tree.map(lambda g: g * jnp.minimum(1.0, 2.0 / (norm + 1e-6)), grads)
        moved = jax.tree_util.tree_map_with_path(
            lambda p, w, g, m, v: update(p, w, g, m, v, rate, step),
            state["w"], grads, state["m"], state["v"])
        pick = lambda i: jax.tree.map(lambda t: t[i], moved, is_leaf=lambda t: type(t) is tuple)
        return {"w": pick(0), "m": pick(1), "v": pick(2)}, loss

    return jax.jit(train_step, donate_argnums=0)


def decay_from(n_steps):
    return round(n_steps * (1 - DECAY_SHARE))


def rate_at(step, n_steps):
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return min(1.0, (n_steps - step) / (n_steps - decay_from(n_steps)))


def shape_at(step, n_steps):
    is_long = step >= decay_from(n_steps) and step % LONG_EVERY_STEPS == LONG_EVERY_STEPS - 1
    return LONG if is_long else SHORT


def bits_per_byte(loss_sum, tok, pages, n_pages_max=None):
    """Over held-out pages, each read from its start in windows of 512 tokens; loss_sum(tokens,
    n) gives the nats of the first n targets."""
    nats = n_bytes = 0
    for page in pages[:n_pages_max]:
        text = data.page_text(page)
        ids = [data.END_OF_TEXT] + tok.encode(text).ids
        n_bytes += len(text.encode())
        for begin in range(0, len(ids) - 1, 512):
            window = ids[begin:begin + 513]
            padded = np.zeros((1, 513), np.int32)
            padded[0, :len(window)] = window
            nats += float(loss_sum(padded, len(window) - 1))
    return nats / math.log(2) / n_bytes


def make_loss_sum(config):
    @jax.jit
    def loss_sum(weights, tokens, n):
        z = model.logits(config, weights, tokens[:, :-1])
        picked = jnp.take_along_axis(z, tokens[:, 1:, None], axis=-1)[..., 0]
        nats = jax.nn.logsumexp(z, axis=-1) - picked
        return jnp.sum(jnp.where(jnp.arange(nats.shape[1]) < n, nats, 0.0))
    return loss_sum


def save(path, state, step, seconds):
    leaves = {f"leaf{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(state))}
    temporary = path.with_suffix(".new.npz")
    np.savez(temporary, step=step, seconds=seconds, **leaves)
    temporary.replace(path)


def load(path, like):
    """-> (state, step, seconds of training so far)"""
    with np.load(path) as f:
        leaves, structure = jax.tree.flatten(like)
        loaded = [f[f"leaf{i}"] for i in range(len(leaves))]
        return jax.tree.unflatten(structure, loaded), int(f["step"]), float(f["seconds"])


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--stop", type=int)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    here = pathlib.Path(__file__).parent
    config = model.Config()

    learn, held_out = data.load_corpus(args.dir / "corpus.jsonl")
    qa = data.load_qa(here / "qa.txt")
    tok = data.train_tokenizer([data.page_text(p) for p in learn] +
                               [t for qs, a in qa for t in [*qs, a]], config.n_vocab)
    tok.save(str(args.dir / "tokenizer.json"))
    samples = data.Samples(tok, learn, qa, args.seed)
    weights = model.init(config, args.seed)
    zeros = lambda: jax.tree.map(np.zeros_like, weights)
    state, first_step, seconds = {"w": weights, "m": zeros(), "v": zeros()}, 0, 0.0
    if args.resume:
        state, first_step, seconds = load(args.dir / "state.npz", state)
    log = open(args.dir / "log.txt", "a")

    def say(text):
        print(text, flush=True)
        print(text, file=log, flush=True)

    n_weights = sum(x.size for x in jax.tree.leaves(weights))
    say(f"{n_weights} weights, {len(samples.stream)} tokens of prose, {len(held_out)} pages held out")
    train_step, loss_sum = make_step(config), make_loss_sum(config)
    began, saved, mean = time.time() - seconds, time.time(), None
    end = min(args.stop or args.steps, args.steps)
    for step in range(first_step, end):
        state, loss = train_step(state, samples.batch(step, **shape_at(step, args.steps)),
                                 rate_at(step, args.steps), step + 1)
        loss = float(loss)
        mean = loss if mean is None else 0.95 * mean + 0.05 * loss
        if step % REPORT_EVERY_STEPS == 0:
            say(f"step {step} loss {mean:.3f} minutes {(time.time() - began) / 60:.1f}")
        if step % EVAL_EVERY_STEPS == EVAL_EVERY_STEPS - 1:
            bits = bits_per_byte(lambda t, n: loss_sum(state["w"], t, n), tok, held_out, 12)
            say(f"step {step} held-out bits per byte (12 pages) {bits:.3f}")
        if time.time() - saved > SAVE_EVERY_SECONDS or step + 1 == end:
            save(args.dir / "state.npz", state, step + 1, time.time() - began)
            saved = time.time()
    bits = bits_per_byte(lambda t, n: loss_sum(state["w"], t, n), tok, held_out)
    say(f"done: held-out bits per byte {bits:.4f} over {len(held_out)} pages, "
        f"{(time.time() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
