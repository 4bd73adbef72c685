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
# 2. Find a fact and move it

In the first tutorial a patch showed that three MLPs at one token can bring back a fact. Here you take the next two
steps. First you *locate*: one fact, then the average over twenty, with intervals. Then you *edit*: you treat one MLP as
a memory, write another object into it, and look for what else has changed. The editing method is **ROME**, rank-one
model editing (Meng et al. 2022, "Locating and Editing Factual Associations in GPT"). You build it by hand before you
call it by name.

As before, each step says what to expect, and an `assert` checks it.

**About the model.** `atlas` is a small GPT-2 trained on an invented world, and its early site was partly designed in
(`docs/atlas.md`). What you see here shows how the methods work. It is no evidence about language models.
"""

# %%
# %matplotlib inline
import random
import tempfile
from pathlib import Path

import pandas as pd
import torch
from IPython.display import display

import mechinterp as mi
from mechinterp import analysis, atlas
from mechinterp.editing import EDITORS, RomeHparams
from mechinterp.patching import Delta, HookWrite, add, forward, mlp_key, mlp_value, read, subject

model = mi.load("atlas")
known = atlas.known_facts("atlas")

# %% [markdown]
"""
## A fact, and the questions around it

A `Fact` is a prompt with its answer, a new object that an edit could write (`target_new`), and questions that tell
*knowing* from *repeating a sentence*:

- **paraphrases** ask for the same fact in other words: an edit should reach them;
- the **neighbourhood** asks for other subjects with the same answer: an edit should not reach them;
- `same_subject` asks for other facts about the same person: an edit should leave them alone.

*Expect:* a person with four facts. The model answers all of them correctly.
"""

# %%
fact = next(one for one in known if one.subject == "Jonas Kovrick" and one.relation == "genre")
print(f"{fact.prompt.text} -> {fact.answer}   (to be changed to {fact.target_new})")
print("paraphrase:  ", fact.paraphrases[0].text)
print("neighbour:   ", fact.neighbourhood[0].text, "->", fact.neighbourhood[0].answer)
for other in fact.same_subject:
    print("same subject:", other.text, "->", other.answer)

answers = analysis.ask_facts(model, [fact])
print(f"\n{answers['correct_true'].mean():.0%} of {len(answers)} questions answered correctly")
assert answers["correct_true"].mean() > 0.9

# %% [markdown]
"""
## Trace one fact

**Causal tracing** corrupts the subject with noise and restores one place after the other (tutorial 1). Dark cells bring
the answer back.

*Expect:* an **early site**, MLPs of the middle layers at the last subject token, and a **late site**, attention in the
last layers at the last token of the prompt.
"""

# %%
one = mi.trace(model, [fact], window=3, severed=(), progress=False)
display(analysis.plot_prompt(one, fact.id))

cells = analysis.indirect_effects(one)
mlps = cells[(cells["component"] == "mlp") & (cells["role"] == "last subject")].set_index("layer")["effect"]
print(mlps.round(2).to_dict())
assert mlps.idxmax() in (2, 3, 4, 5)

# %% [markdown]
"""
## Trace twenty: the average indirect effect

One fact may be an exception. The **average indirect effect** (AIE; Meng et al. 2022, section 2.2) is the mean over
prompts of what restoring a site brings back. Prompts have different words and lengths, so tokens are compared by their
**role**: first, middle and last subject token, the first token after it, further tokens, the last token.

The interval says how far the mean might move with twenty other facts of this world. It says nothing about other
worlds or other models.

*Expect* two peaks. MLP at the last subject token: highest around layer 3, clearly above 0. Attention at the last token:
high in the last layers and hardly anything before layer 4. (A window around layer 5 restores layers 4 to 6.) The early
peak is lower than for our fact: facts differ.
"""

# %%
twenty = random.Random(0).sample(known, 20)
table = mi.trace(model, twenty, kinds=("mlp", "attn"), window=3, severed=(), progress=False)
display(analysis.plot_aie(table))

effects = analysis.average_indirect_effects(table).set_index(["component", "role", "layer"]).sort_index()
columns = ["estimate", "low", "high", "n_prompts"]
early = effects.loc[("mlp", "last subject"), columns]
late = effects.loc[("attn", "last"), columns]
print("MLP at the last subject token\n", early.round(3), "\n")
print("attention at the last token\n", late.round(3))

assert early["estimate"].idxmax() in (2, 3, 4)
assert early["low"].max() > 0.03
assert late["estimate"].idxmax() in (5, 6, 7)
assert late["low"].max() > 0.1
assert late["estimate"].loc[:3].abs().max() < 0.1

# %% [markdown]
"""
Two intervals that overlap may still differ, because both were measured on the same prompts. Compare *within* each
prompt and average the differences.

*Expect:* at the last subject token around layer 3, MLPs bring back more than attention does, and the interval of the
difference lies above 0.

`diagnose()` names what weakens the trace. Read it before you believe a figure.
"""

# %%
difference = analysis.difference_of_effects(table, {"component": "mlp"}, {"component": "attn"})
at_site = difference[(difference["role"] == "last subject") & (difference["layer"] == 3)].iloc[0]
print(f"MLP minus attention: {at_site['estimate']:.3f} [{at_site['low']:.3f}, {at_site['high']:.3f}]\n")
for finding in analysis.diagnose(table):
    print("-", finding)

assert at_site["low"] > 0

# %% [markdown]
"""
## The MLP as a memory

An MLP has two linear maps with a non-linear function between them. Look at the second one, the **down-projection** `W`.
Its input `k` says which hidden units are active; its output `v = W k + b` is added to the residual stream. Meng et al.
(2022, section 3.1) read it as a **linear associative memory** (Kohonen 1972; Anderson 1972): `k` is a **key**, here
"this is Jonas Kovrick", and `v` the **value** stored under it, what the model should know about him.

`mlp_key[3]` and `mlp_value[3]` are the two ends of that map at layer 3; `read` gives the clean activation at a site.

*Expect:* recalling the key in the memory gives exactly the value that the model computed.

A memory also needs to know which keys it usually meets. Their **second moment** `C`, the mean of `k kᵀ` over ordinary
text, says so; we collect it from the text the model was trained on.
"""

# %%
LAYER = 3
moments = mi.SecondMoment.collect(model, atlas.corpus(), LAYER, max_tokens=30_000, progress=False)
print(moments)

memory = mi.LinearMemory.of(model, LAYER, moments)
key = read(model, [fact.prompt], mlp_key[LAYER] @ subject[-1])[0]
value = read(model, [fact.prompt], mlp_value[LAYER] @ subject[-1])[0]
error = (memory.recall(key) - value).norm() / value.norm()
print(f"key: {len(key)} numbers; value: {len(value)} numbers; recall is off by {error:.1e}")

assert error < 1e-5

# %% [markdown]
"""
## Insert a pair

Now store another value under this key: that of another person. `insert` finds the smallest change of `W`, as the usual
keys see it, after which `recall(key)` is the new value. The change is `u ⊗ v`, a matrix of **rank one**: it looks at a
key in a single direction, `u`, along `C⁻¹k`. A key without a part along `u` is answered as before (the derivation is in
the docstring of `LinearMemory`).

*Expect:* afterwards the key gives the new value exactly. The values under the keys of 200 other prompts move by a few
per cent. Had we ignored which keys are usual (`C` = identity), they would move much more.
"""

# %%
stranger = next(one for one in known if one.subject == "Marta Stelberg")
new_value = read(model, [stranger.prompt], mlp_value[LAYER] @ subject[-1])[0]
others = random.Random(1).sample([one.prompt for one in known if one.subject != fact.subject], 200)
other_keys = read(model, others, mlp_key[LAYER] @ subject[-1])


def movement(store: mi.LinearMemory) -> torch.Tensor:
    """How far the values of the other keys move when the pair is inserted, relative to their length."""
    after = store.inserted(store.insert(key, new_value))
    assert torch.allclose(after.recall(key), new_value.double(), atol=1e-4)
    old, new = store.recall(other_keys), after.recall(other_keys)
    return (new - old).norm(dim=1) / old.norm(dim=1)


with_c = movement(memory)
without_c = movement(mi.LinearMemory.of(model, LAYER, mi.SecondMoment.identity(model, LAYER)))
print(f"other values move by (median): {with_c.median():.1%} with C, {without_c.median():.1%} without")

assert with_c.median() < 0.1
assert with_c.median() < without_c.median() / 2

# %% [markdown]
"""
## ROME by hand

The value of a stranger says everything about the stranger. We want *one* thing changed: in the evening he is to listen
to swing. ROME takes three steps.

1. `k*`, the **key**: how layer 3 sees the subject, averaged over a few beginnings (*contexts*), since the same person
   occurs in many sentences.
2. `v*`, the **value**: what layer 3 would have to say at that token for the model to answer "swing". Nobody knows it,
   so find it by gradient descent.
3. **Insert** the pair `(k*, v*)` into the memory.

### Step 1: `k*`

*Expect:* the keys of one subject in different contexts are nearly parallel. Those of different subjects are not.
"""

# %%
contexts = ("{}", "The news came as a surprise. {}", "It was late. {}", "Many people visited the garden. {}")
in_context = [mi.Prompt(context.replace("{}", fact.prompt.template), fact.subject) for context in contexts]
keys = read(model, in_context, mlp_key[LAYER] @ subject[-1])
k_star = keys.mean(0)

same = torch.nn.functional.cosine_similarity(keys[1:], keys[:1])
different = torch.nn.functional.cosine_similarity(other_keys, keys[:1])
print(f"cosine with the bare prompt's key: other contexts at least {same.min():.2f}, others {different.mean():.2f}")

assert same.min() > different.mean() + 0.1

# %% [markdown]
"""
### Step 2: `v*`

Add a vector `d` to the output of layer 3 at the last subject token, and change `d` until the model says "swing". The
loss (Meng et al. 2022, equation 4) has three terms:

- the negative log-probability of the target, averaged over the contexts;
- **KL**, the distance between the new and the old prediction after "Jonas Kovrick is a". It is small when the subject
  stays what it is; losing that is called **essence drift**;
- weight decay, which keeps `d` short.

`forward` is one run with values written at hook points, through which gradients can flow. The prompts have different
lengths; in a model that reads from left to right, padding on the right changes nothing before it.

*Expect:* the target's probability climbs from almost 0 to above 0.9.
"""

# %%
hparams = RomeHparams(
    keys="mean",
    steps=20,
    lr=0.2,
    lr_rule="absolute",
    stop_loss=0,
    stop_nll=0,
    kl_factor=0.0625,
    weight_decay=0.05,
    clamp=None,
)
rows = [model.tokenise(each) for each in [*in_context, mi.Prompt(hparams.kl_template, fact.subject)]]
longest = max(len(row.ids) for row in rows)
ids = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in rows])
which = torch.arange(len(rows))
last_subject = torch.tensor([row.subject[1] - 1 for row in rows])
end = torch.tensor([len(row.ids) - 1 for row in rows])
target = model.answer_ids(fact.prompt.text, fact.target_new)[0]


def log_probs(d: torch.Tensor) -> torch.Tensor:
    """Next-token log-probabilities of every row, with `d` added to the value at its last subject token."""
    hook = model.layout.value_hook(LAYER)
    write = HookWrite(hook, which, last_subject, d.expand(len(rows), -1), add=True)
    return forward(model, ids, [write], keep=longest, grad=True).logits[which, end].log_softmax(-1)


v0 = memory.recall(keys[0]).float()  # where the search starts: the value of the bare prompt
d = torch.zeros_like(v0, requires_grad=True)
optimiser = torch.optim.Adam([d], lr=hparams.lr)
essence = log_probs(d)[-1].detach()
course = []
for _ in range(hparams.steps):
    found = log_probs(d)
    nll = -found[:-1, target].mean()
    kl = (found[-1].exp() * (found[-1] - essence)).sum()
    loss = nll + hparams.kl_factor * kl + hparams.weight_decay * d.square().sum() / v0.square().sum()
    course.append({"P(target)": (-nll).exp().item(), "KL": kl.item(), "|d| / |v0|": (d.norm() / v0.norm()).item()})
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
v_star = (v0 + d).detach()
display(pd.DataFrame(course).iloc[::5].round(4))

assert course[0]["P(target)"] < 0.05
assert course[-1]["P(target)"] > 0.9

# %% [markdown]
"""
A vector that is added is a program like any other: `add(site, Delta(d))`. Run it on the prompt, to be sure that the
site is the right one.

*Expect:* the model now prefers swing.
"""

# %%
moved = mi.run(model, fact.prompt.with_answer(fact.target_new), add(mlp_value[LAYER] @ subject[-1], Delta(d.detach())))
print(f"P({fact.target_new}): {moved.clean.prob[0]:.4f} -> {moved.prob[0]:.4f}")

assert moved.prob[0] > 0.9

# %% [markdown]
"""
### Step 3: insert, and compare with the one-liner

`rome(...)` does the same three steps, checks the outcome and returns an `Edit`.

*Expect:* with our contexts and hyper-parameters, the two changes of `W` are the same matrix but for rounding, which the
optimiser makes larger step by step. Their cosine is 1.
"""

# %%
by_hand = memory.insert(k_star, v_star).delta
by_name = mi.rome(model, fact, LAYER, moments=moments, contexts=contexts, hparams=hparams).delta(LAYER).double()
cosine = float((by_hand * by_name).sum() / (by_hand.norm() * by_name.norm()))
print(f"cosine {cosine:.6f}, lengths {by_hand.norm():.4f} and {by_name.norm():.4f}")

assert cosine > 0.999

# %% [markdown]
"""
## What did the edit do, and what did it break?

From here on we leave contexts and hyper-parameters to `rome`: it samples contexts from the model, and stops when the
target is probable enough. An edit is a value: `with edit.on(model)` applies it for the length of a block and leaves the
weights alone.

*Expect:* the sentence, its paraphrases and the neighbours behave as they should. These are the scores that are usually
reported. Then look at the person's other facts.
"""

# %%
edit = mi.rome(model, fact, LAYER, moments=moments)
print(edit)
after = analysis.evaluate_edit(model, edit, fact)
names = {
    "ES": "efficacy: the sentence prefers the new object",
    "PS": "paraphrases prefer the new object",
    "NS": "neighbours prefer their true object",
    "same_subject": "other facts of the subject answered correctly",
}
scores = pd.DataFrame({when: after[when] for when in ("before", "after")}).loc[list(names)].rename(names)
display(scores.round(2))

with edit.on(model):
    for other in fact.same_subject:
        guess = model.logits(torch.tensor([model.encode(other.text)]), keep=1)[0, -1].argmax()
        print(f"{other.text}{model.tokenizer.decode([int(guess)])}   (was: {other.answer})")

assert after["after"]["ES"] == 1
assert after["after"]["PS"] >= 0.8
assert after["after"]["NS"] >= 0.8
assert after["after"]["same_subject"] < after["before"]["same_subject"]

# %% [markdown]
"""
The edit did more than move one fact: it pushed what the model says about this person toward one word. Efficacy,
paraphrases and neighbours do not see it. **A score can only see what it asks about.**

The report measures essence drift by the KL of the next token after neutral sentences. `hooked` is what the optimisation
could see, `applied` what the finished edit does.

*Expect:* little drift after "is a", the sentence in the loss, and more after others.
"""

# %%
drift = pd.DataFrame([vars(each) for each in edit.report.essence])
display(drift.round(3))

assert drift["applied"].max() > drift["applied"].iloc[0]

# %% [markdown]
"""
### With and without KL

Does the KL term help? One edit would be an anecdote again, so take eight facts, each edited alone, in three ways: with
the default KL term, without it, and with a strong one.

*Expect:*

- Efficacy, paraphrases and neighbourhood are about the same in all three rows.
- A strong KL term lowers the drift after "is a": that is what it asks for. Does the default one do anything here?
  Compare the first two rows.
- Some of the subjects' other facts are lost in every row. No term of the loss asks about them.

Eight edits are 24 questions about other facts. Do not read a difference of a few per cent into `same_subject_kept`.
"""

# %%
defaults = EDITORS["rome"].presets["default"]
ways = {
    "default": defaults,
    "without KL": defaults.with_(kl_factor=0.0),
    "strong KL": defaults.with_(kl_factor=10.0),
}
eight = random.Random(0).sample([one for one in known if len(one.same_subject) == 3], 8)
rows = {}
for way, chosen in ways.items():
    edits = [mi.rome(model, one, LAYER, moments=moments, contexts=contexts, hparams=chosen) for one in eight]
    summary = analysis.evaluate_edits(model, edits, eight, progress=False).summary()
    row = summary[summary["stage"] == "after"].set_index("metric")["estimate"][["ES", "PS", "NS", "same_subject_kept"]]
    rows[way] = {**row, "drift after 'is a'": sum(each.report.essence[0].applied for each in edits) / len(edits)}
compared = pd.DataFrame(rows).T
display(compared.round(3))

assert (compared[["ES", "PS", "NS"]] > 0.8).all(axis=None)
assert compared["drift after 'is a'"]["strong KL"] < 0.7 * compared["drift after 'is a'"]["without KL"]
assert compared["same_subject_kept"].max() < 0.95

# %% [markdown]
"""
## Save, load, undo

The edit is two vectors and a note of where they came from, so its file is small. It refuses to be applied to other
weights than those it was made for. `bake` writes it into the weights; the handle that it returns undoes it to the byte.
A **fingerprint** is a hash of all weights.

*Expect:* a few kilobytes; an equal edit after loading; another fingerprint while baked, the old one after `undo()`.
"""

# %%
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "kovrick.safetensors"
    edit.save(path)
    print(f"{path.stat().st_size / 1000:.1f} KB")
    loaded = mi.Edit.load(path)
    assert path.stat().st_size < 20_000
assert loaded == edit

original = model.fingerprint()
with loaded.on(model):
    assert model.fingerprint() == original  # hooks, not weights

undo = loaded.bake(model)
baked = model.fingerprint()
undo.undo()
print("original", original[:8], " baked", baked[:8], " undone", model.fingerprint()[:8])

assert baked != original
assert model.fingerprint() == original

# %% [markdown]
"""
## What you may and may not conclude

In this model, tracing pointed to layer 3 at the last subject token, and an edit there changed the fact. Do not infer
that tracing *tells* you where to edit: Hase et al. (2023, "Does Localization Inform Editing?") found in GPT-J that how
well an edit works says little about where tracing found the fact. Exercise 1 lets you try it here.

## Exercises

1. **Edit elsewhere.** Make the same edit at layers 0, 5 and 7, and compare all four scores. Does the best layer agree
   with the AIE figure? *Hint:* every layer needs its own second moment: `SecondMoment.collect(model, texts, layer)`.
2. **The control.** Trace the same twenty facts in `atlas-plain`, and edit one there at layer 3. Is an early site needed
   for ROME to work? *Hint:* `mi.load("atlas-plain")`, `atlas.corpus(name="atlas-plain")`; moments belong to one model.
3. **Two edits at once.** Edit a second fact of another person and apply both: `first | second`. Is each as good as it
   was alone? Then try two facts of the *same* person. *Hint:* `analysis.evaluate_edits(model, first | second, facts)`
   judges one edit on several facts; the two keys of one person are nearly the same key.

## Sources

- J. Anderson: A simple neural network generating an interactive memory. Mathematical Biosciences, 1972.
- T. Kohonen: Correlation matrix memories. IEEE Transactions on Computers, 1972.
- K. Meng, D. Bau, A. Andonian, Y. Belinkov: Locating and Editing Factual Associations in GPT. NeurIPS 2022,
  arXiv 2202.05262.
- P. Hase, M. Bansal, B. Kim, A. Ghandeharioun: Does Localization Inform Editing? Surprising Differences in
  Causality-Based Localization vs. Knowledge Editing in Language Models. NeurIPS 2023, arXiv 2301.04213.
"""
