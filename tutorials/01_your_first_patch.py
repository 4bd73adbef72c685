# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
"""
# 1. Your first patch

You will damage what a language model knows about a person, repair one small part of the model, and see the knowledge
come back. That is *activation patching*: replace an internal value (an *activation*) of one run by its value from
another run, and look at what happens to the output.

Every step says what to expect **before** it shows it. Try to predict the number yourself, then run the cell. Where a
claim is made, an `assert` checks it.

**About the model.** `atlas` is a small GPT-2 with 8 layers, trained on an invented world. Its facts sit where you will
find them partly because the training put them there (`docs/atlas.md` says how). It shows the *method* at work. It is no
evidence about language models.
"""

# %%
# %matplotlib inline
import numpy as np
from IPython.display import display

import mechinterp as mi
from mechinterp import analysis, atlas
from mechinterp.patching import Gaussian, at, corrupt, embed, everywhere, mlp, nothing, resid, restore, sever, subject

# %% [markdown]
"""
## A prompt, and what the model says to it

A **prompt** is the beginning of a sentence; the model gives a probability to every possible next **token** (a word or a
piece of one). Our prompts are about a **subject**, here a person, and end where the **answer** belongs. The template
marks the place of the subject with `{}`, so that the subject's tokens are known and never searched for.

*Expect:* the subject is cut into three tokens, `Jonas`, ` Ost`, `quist`.
"""

# %%
model = mi.load("atlas")
prompt = mi.Prompt("At parties, {} always asks for", subject="Jonas Ostquist", answer="soul")

tokenised = model.tokenise(prompt)
start, end = tokenised.subject
print(model)
print("tokens: ", list(tokenised.tokens))
print("subject:", list(tokenised.tokens[start:end]))

assert end - start == 3

# %% [markdown]
"""
The **clean run** is the model left alone. In `mechinterp` you say what to change with a *program*; the empty program is
called `nothing`.

*Expect:* the model knows this fact. The answer is its first choice (`rank` 0) with a probability well above one half.

The second number is the **logit difference**. Logits are the model's scores before they become probabilities; the
difference is the answer's logit minus that of a **foil**, the strongest competitor in the clean run. Above 0, the
answer beats the foil.
"""

# %%
clean = mi.run(model, prompt, nothing)
print(f"P({clean.answer!r}) = {clean.prob[0]:.3f}, rank {clean.rank[0]:.0f}")
print(f"logit difference to {clean.foil!r}: {clean.logit_diff[0]:.2f}")

assert clean.rank[0] == 0
assert clean.prob[0] > 0.5

# %% [markdown]
"""
## Corrupt: hide who the sentence is about

To find the part of the model that *brings in* the fact, first take the fact away. The **corrupted run** adds random
noise to the token embeddings of the subject, as in *causal tracing* (Meng et al. 2022, "Locating and Editing Factual
Associations in GPT"). The noise is Gaussian, with three times the standard deviation (sigma) of the subjects'
embeddings.

A **site** is a component of the model at a position: `embed @ subject` reads "the embeddings, at the subject's tokens".
Positions are roles, not numbers, so the same program works for other prompts.

Before running anything, `explain()` says what would happen: which hook of the model, which tokens, which values.

*Expect:* one write at `hook_embed`, on three tokens, with ten draws of noise.
"""

# %%
noise = corrupt(embed @ subject, Gaussian(sigmas=3, draws=10, seed=0))
print(mi.explain(model, prompt, noise))

# %% [markdown]
"""
*Expect:* without its subject the sentence could be about anybody. The probability of the answer falls to a few per cent
at most. The fall from clean to corrupted is the **total effect**: all there is to bring back.
"""

# %%
corrupted = mi.run(model, prompt, noise)
print(f"P(answer): clean {corrupted.clean.prob[0]:.3f}, corrupted {corrupted.corrupted.prob.mean():.3f}")
print(f"total effect: {corrupted.total_effect:.3f}")

assert corrupted.corrupted.prob.mean() < 0.05

# %% [markdown]
"""
## Restore: give one part its clean value back

Now the patch. In the corrupted run, the outputs of three MLPs (layers 2, 3 and 4) at the *last* subject token are
replaced by their values from the clean run. The **MLP** is the feed-forward half of a layer. The three together are a
**window**: one layer's contribution is often too small to show. `subject[-1]` is the last token of the subject.

`|` joins two programs: do both.

*Expect:* everything else stays damaged, the noise included. If these three vectors do not carry the fact, the answer
stays lost. If they carry it, it comes back.
"""

# %%
patch = noise | restore(mlp[2:5] @ subject[-1])
result = mi.run(model, prompt, patch)
print(mi.explain(model, prompt, patch))
print()
print(result)

assert result.prob.mean() > 0.5
assert result.logit_diff.mean() > 0 > result.corrupted.logit_diff.mean()

# %% [markdown]
"""
Three vectors brought back most of the answer. What came back, patched minus corrupted, is the **indirect effect** of
the site (Meng et al. 2022, section 2.1): the part of the total effect that runs through it.

Read both columns. The probability says how likely the answer is; the logit difference says by how much it beats the
foil, and goes on counting where the probability cannot (more on this below).

What you have shown, in careful words (Heimersheim and Nanda 2024, "How to use and interpret activation patching"):
you repaired a damaged run, which they call *denoising*. It shows that the site is **sufficient** to bring the answer
back in this setting. It does not show that the site is necessary: another path might do the same.

Here is the whole patch again, in ten lines.
"""

# %%
model = mi.load("atlas")
prompt = mi.Prompt("At parties, {} always asks for", subject="Jonas Ostquist", answer="soul")
print(mi.run(model, prompt, nothing).prob)  # the clean prediction
noise = corrupt(embed @ subject, Gaussian(sigmas=3, draws=10, seed=0))
patch = noise | restore(mlp[2:5] @ subject[-1])
print(mi.explain(model, prompt, patch))
result = mi.run(model, prompt, patch)
print("probability:     ", result.corrupted.prob.mean(), "->", result.prob.mean())
print("logit difference:", result.corrupted.logit_diff.mean(), "->", result.logit_diff.mean())
print("indirect effect: ", result.indirect_effect, "of", result.total_effect)

# %% [markdown]
"""
## Laws you can check yourself

A number from a patch is easy to get wrong without noticing: a hook that never fires, an index off by one. Some results
are known in advance, whatever the model. Check them whenever you write a new experiment.

**Restore everything, and you have the clean run.** The **residual stream** is the running sum that each layer reads and
adds to. At any one layer, it is all that the later layers get to see.

*Expect:* restoring it at every token gives the clean run exactly, in all layers or in one. `kl`, the distance of the
output from the clean output, is 0 but for rounding.
"""

# %%
for everything in (restore(resid @ everywhere), restore(resid[3] @ everywhere)):
    whole = mi.run(model, prompt, noise | everything)
    print(f"{everything}: P {whole.prob.mean():.6f}, clean {whole.clean.prob[0]:.6f}, KL {whole.kl.max():.1e}")
    assert np.allclose(whole.prob, whole.clean.prob, atol=1e-4)
    assert whole.kl.max() < 1e-5

# %% [markdown]
"""
**Restore before the subject, and nothing happens.** A GPT reads from left to right: a token sees only those before it.
The first token of this prompt comes before the noise, so it was never damaged.

*Expect:* exactly the corrupted run. The result says so itself: `changed` is `False`.
"""

# %%
before = mi.run(model, prompt, noise | restore(resid @ at(0)))
print(before)

assert not before.changed
assert np.allclose(before.prob, before.corrupted.prob, atol=1e-6)

# %% [markdown]
"""
**`|` is a union.** A program is a *set* of writes. Order does not matter, and saying a thing twice is saying it once.

*Expect:* the programs are equal, and so are their results. A program that contradicts itself, restoring and severing
(holding at the corrupted value) one and the same site, is refused before anything runs.
"""

# %%
fix = restore(mlp[2:5] @ subject[-1])
assert noise | fix == fix | noise
assert noise | fix | fix == noise | fix
assert (mi.run(model, prompt, fix | noise).prob == result.prob).all()

try:
    restore(mlp[3] @ subject[-1]) | sever(mlp[3] @ subject[-1])
except mi.UsageError as error:
    refused = str(error)
print(refused)

assert "two sources for one site" in refused

# %% [markdown]
"""
## A first grid

Why the last subject token, and why layers 2 to 4? Nobody told us: try *every* token and *every* layer. `trace()` runs
one patch per cell of this grid. By default it does the causal tracing of Meng et al. 2022: it restores, cell by cell,
the residual stream of one layer, the MLPs of a window of layers, and the **attention** outputs of a window. Attention
is the other half of a layer; it moves information between tokens. (`severed=()` leaves out a refinement; exercise 3.)

The result is one long table: a row per cell and draw, and the metrics as columns.

*Expect* three things in the figure (dark means: the answer is back).

- Rows before the subject (the subject's tokens carry a star) stay empty. You proved this above.
- MLP panel: an **early site**, dark at the last subject token in the middle layers.
- Residual panel: the fact sits at the last subject token in the early and middle layers, then moves to the last token
  of the prompt in the last layers. Attention carries it there (its panel is dark at that place): the **late site**.
"""

# %%
table = mi.trace(model, [prompt], window=3, severed=(), sigmas=3, draws=10, seed=0, progress=False)
shown = ["run", "component", "window", "layer", "position", "token", "draw", "prob", "logit_diff"]
display(table.frame.loc[table.frame["run"] == "patched", shown].head(3))
display(analysis.plot_prompt(table, prompt.name))

cells = analysis.indirect_effects(table)
assert cells.loc[cells["position"] < start, "effect"].abs().max() < 1e-4

by_mlp = cells[cells["component"] == "mlp"]
early = by_mlp[by_mlp["role"] != "last"].nlargest(1, "effect").iloc[0]
print(f"strongest MLP window before the last token: around layer {early['layer']} at {early['token']!r}")
assert early["role"] == "last subject"
assert early["layer"] in (2, 3, 4, 5)

# %% [markdown]
"""
## Three ways to fool yourself

### One draw is not enough

The noise is random. We used ten draws and took their mean.

*Expect:* the draws disagree widely, although prompt, model and site are the same. With a single draw you would have
reported whichever number came up.
"""

# %%
effects = result.prob - result.corrupted.prob  # draw i is paired with draw i
error_of_mean = effects.std(ddof=1) / np.sqrt(len(effects))
print("indirect effect, draw by draw:", effects.round(2))
print(f"mean {effects.mean():.2f}, standard error of the mean {error_of_mean:.2f}")

assert effects.max() - effects.min() > 0.2

# %% [markdown]
"""
### Probability alone hides things

A probability cannot fall below 0 or rise above 1, and it moves little near either end. In the corrupted run it is
almost 0 already. So a site that works *against* the answer cannot be seen, and one that does some of the work may not
be seen either. Zhang and Nanda (2024, "Towards Best Practices of Activation Patching in Language Models") show that
probability can miss such sites, and recommend the logit difference. `mechinterp` always gives both.

To compare them, divide each effect by its own total effect: the share that a cell brings back.

*Expect:* cells that bring back more than 15 % of the logit difference and less than 5 % of the probability; and a cell
that works against the answer in logits while its probability hardly moves.
"""

# %%
in_logits = analysis.indirect_effects(table, "logit_diff")
cells["share of prob"] = cells["effect"] / analysis.total_effects(table)["total_effect"][0]
cells["share of logit_diff"] = in_logits["effect"] / analysis.total_effects(table, "logit_diff")["total_effect"][0]
columns = ["component", "layer", "token", "share of prob", "share of logit_diff"]

hidden = cells[(cells["share of logit_diff"] > 0.15) & (cells["share of prob"] < 0.05)]
against = cells.nsmallest(1, "share of logit_diff")
display(hidden[columns].round(3))
display(against[columns].round(3))

assert len(hidden) > 0
assert against["share of logit_diff"].iloc[0] < -0.02
assert against["share of prob"].abs().iloc[0] < 0.01

# %% [markdown]
"""
### One prompt is an anecdote, and a method needs a control

We chose this prompt *because* its effect is large. So take twenty facts at random. And ask a second model:
`atlas-plain` knows the same facts as well as `atlas` does, but nothing in its training asked for an early site. It is a
**negative control**: a method that finds the site in both models would be finding something about itself.

*Expect:* the noise does its damage in both models (total effects well above one half). Restoring the early window
brings back a part of it in `atlas`, on average much less than in our example, and almost nothing in `atlas-plain`.

The interval is a *bootstrap* interval over the facts: how much the mean would change with other facts of this kind.
"""

# %%
both = {fact.id for fact in atlas.known_facts("atlas-plain")}
known = [fact.prompt for fact in atlas.known_facts("atlas") if fact.id in both]
chosen = [known[i] for i in np.random.default_rng(0).choice(len(known), 20, replace=False)]

average = {}
for name in ("atlas", "atlas-plain"):
    results = mi.run(mi.load(name), chosen, patch)
    total = np.mean([each.total_effect for each in results])
    average[name] = analysis.bootstrap_mean(np.array([each.indirect_effect for each in results]))
    mean, low, high = average[name].estimate, average[name].low, average[name].high
    print(f"{name:12} total effect {total:.2f}, indirect effect of the early window {mean:.3f} [{low:.3f}, {high:.3f}]")
    assert total > 0.5

assert average["atlas"].low > average["atlas-plain"].high

# %% [markdown]
"""
`atlas-plain` knows the facts, so they must be somewhere. "No effect at this site" is not "no knowledge": it may be
spread over many sites, or take another path. A patch answers the question you asked, and no other.

`diagnose()` looks at a trace and says what weakens it. *Expect* to be told off: one prompt is too few.
"""

# %%
findings = analysis.diagnose(table)
for finding in findings:
    print("-", finding)

assert "few-prompts" in {finding.code for finding in findings}

# %% [markdown]
"""
## Exercises

1. **Another corruption.** Zhang and Nanda (2024) advise against noise, which the model has never met in training, and
   for *symmetric token replacement*: use another, ordinary subject instead. Corrupt with
   `OtherSubject("Ingrid Brenberg")` and patch the same window. Does the early site hold?
   *Hint:* `from mechinterp.patching import OtherSubject`; it takes the place of `Gaussian(...)`. The other name must
   have as many tokens.
2. **Move the window.** Predict first, then measure: `mlp[0:3]` and `mlp[5:8]` at `subject[-1]`, and `mlp[2:5]` at
   `last`. *Hint:* find the three cells in the heat map above before you run anything.
3. **Cut a path.** Restore the residual stream of layer 1 at the last subject token: the answer partly comes back. Now
   hold the MLPs of the later layers at that token to their corrupted values as well. What does the difference tell you
   about what these MLPs do? *Hint:* `noise | restore(resid[1] @ subject[-1]) | sever(mlp[2:] @ subject[-1])`.

## Sources

- K. Meng, D. Bau, A. Andonian, Y. Belinkov: Locating and Editing Factual Associations in GPT. NeurIPS 2022,
  arXiv 2202.05262.
- F. Zhang, N. Nanda: Towards Best Practices of Activation Patching in Language Models: Metrics and Methods. ICLR 2024,
  arXiv 2309.16042.
- S. Heimersheim, N. Nanda: How to use and interpret activation patching. 2024, arXiv 2404.15255.

Next: `02_find_a_fact_and_move_it.py`.
"""
