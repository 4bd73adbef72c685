"""What is measured on two real language models.

    python -m benchmarks.real.known  --model gemma3-270m         which facts it knows
    python -m benchmarks.real.aie    --model gemma3-270m         where they are: average indirect effects

Each takes `--facts N`, `--prepend bos|eos` and `--out FOLDER`, and may be interrupted or killed: the same command goes
on, and a larger `--facts` adds to what is there.  `--model atlas` tries a script on the bundled model in a minute; a
folder of a model of your own will do, too.

The models are read from the folder that MECHINTERP_REAL names (default: ~/.cache/mechinterp-real), known_1000.json,
counterfact_2000.json and wikitext2_valid.txt from the one that MECHINTERP_DATA names.
"""
