"""How each printed command is tested, in the order in which those that run do so;
`tests/test_commands.py` says what the words mean.

A new command in README, slurm/README.md, c2srt/*.md, docs/, a YAML or Slurm comment, or in the
code, fails the test until it has a row here.

run       by a shell, on a small miniature (paths substituted)
stub      the same, against a model server of the tests
long      the same, over a minute: `pytest -m long`, by hand
composed  read by zsh and sh, composed by Hydra and checked by the verb's dataclass; the reason says
          why no more
shell     read by `bash -n`; the reason says what runs it
"""

RUN, STUB, LONG, COMPOSED, SHELL = "run", "stub", "long", "composed", "shell"

FULL = "the real data set, or hours of a GPU; the same with data=miniature is above"
STUDY = "half an hour; tests/test_study.py runs a small one"
HOURS = "the record's own: over an hour; a smaller one of its kind is above"
FORM = "a form to fill in; the rows with values are above"
BENCH = "minutes at full size; tests/test_bench.py runs it small"
SLURM = "needs a Slurm; tests/test_slurm.py runs the scripts on a real one"
TABLE = "tests/test_score_table.py runs it"
SITE = "a setting of one's own cluster"
OWN = "its table is yours; tests/test_own_data_page.py follows the page"
SET = "its files are not here; tests/test_coco.py and the like go this road on small ones"
ELSEWHERE = "a program of others"

DOCUMENTED: dict[str, tuple[str, str]] = {
    # the road, in its order
    "c2srt shard data=openimages data.root=/data/openimages workers=32": (RUN, ""),
    "c2srt audit data=openimages data.root=…": (RUN, ""),
    "c2srt text data=openimages data.root=/data/openimages": (RUN, ""),
    "c2srt relations data=openimages data.root=/data/openimages graph=llm": (RUN, ""),
    "c2srt relations data=openimages": (RUN, ""),
    "c2srt relations graph=similarity": (RUN, ""),
    "c2srt relations graph=cooccurrence": (RUN, ""),
    "c2srt text smooth=4 out=runs/miniature/text-smoothed": (RUN, ""),
    "c2srt relations report data=openimages 'draw=[Vehicle]'": (RUN, ""),
    "c2srt teacher data=openimages data.root=/data/openimages workers=8": (RUN, ""),
    "c2srt teacher": (RUN, ""),
    "c2srt plan workers=8 engine.precision=bf16 loader.workers=4 cluster=h200": (RUN, ""),
    "c2srt plan 'gpus=[1,8,64,512]' engine.precision=bf16 loader.workers=4": (RUN, ""),
    "c2srt train --help": (RUN, ""),
    "c2srt train": (RUN, ""),
    "c2srt evaluate data=openimages data.root=/data/openimages workers=8": (RUN, ""),
    "c2srt evaluate checkpoint=clip out=runs/clip": (RUN, ""),
    "c2srt evaluate checkpoint=prior out=runs/prior": (RUN, ""),
    "c2srt evaluate checkpoint=clip neighbours=4 out=runs/clip-neighbours": (RUN, ""),
    "c2srt evaluate checkpoint=sparc neighbours=4 out=runs/sparc": (RUN, ""),
    "c2srt evaluate scores=S.npy labels=L.npy seen=M.npy 'topk=[10,20]' out=runs/x": (RUN, ""),
    "c2srt export checkpoint=runs/miniature/train out=my_model": (RUN, ""),
    "c2srt figures": (RUN, ""),
    "c2srt figures 'figures=[predictions]' 'images=[0a1b2c3d4e5f6071]'": (RUN, ""),
    "c2srt figures 'figures=[cam,patches]' 'categories=[Dog,\"Red car\"]'": (RUN, ""),
    "c2srt figures 'figures=[novel]' 'words=[\"tuk-tuk\",\"rain jacket\"]'": (
        COMPOSED,
        "tests/test_figures_drawn.py draws it",
    ),
    (
        "c2srt predict checkpoint=runs/miniature/full/seed-0/model "
        "'images=[holiday/,dog.jpg]' 'labels=[dog,\"red car\",\"birthday party\"]'"
    ): (
        RUN,
        "",
    ),
    (
        "c2srt predict checkpoint=runs/x/train 'images=[photo.jpg,holiday/]' "
        "'labels=[dog,\"red car\"]'"
    ): (
        RUN,
        "",
    ),
    "c2srt predict checkpoint=… images=photo.jpg labels=labels.txt": (
        SHELL,
        "tests/test_predict.py ranks the words of a file",
    ),
    "c2srt predict checkpoint=… 'images=[\"photos/*.png\"]' json=true > predictions.jsonl": (
        RUN,
        "",
    ),
    "c2srt predict --help": (RUN, ""),
    "c2srt predict checkpoint=clip clip.name=ViT-B-16 images=photo.jpg labels=dog,cat": (
        SHELL,
        "its weights are downloaded; tests/test_predict_many.py has a CLIP of its own",
    ),
    (
        "c2srt predict checkpoint=… images=/mnt/photos/ labels_file=tags.csv out=tags.parquet"
        " workers=8"
    ): (SHELL, "tests/test_predict_many.py writes each kind of table"),
    "c2srt predict checkpoint=… images=photos/ labels=tags.txt threshold=4 out=xmp": (
        SHELL,
        "tests/test_sidecars.py writes them",
    ),
    "c2srt predict checkpoint=… images=photos/ threshold=auto": (
        SHELL,
        "tests/test_calibration.py runs it",
    ),
    # docs/own-data.md
    "c2srt shard data=csv data.train=labels.csv 'data.unseen=[purple,snow]' data.share=0.2": (
        COMPOSED,
        OWN,
    ),
    "c2srt audit data=csv data.train=labels.csv 'parts=[shards,labels,duplicates]'": (
        COMPOSED,
        "its table is yours; tests/test_look.py runs it",
    ),
    "c2srt shard data=csv data.train=labels.csv data.exclude=exclude.csv out=runs/csv/cleaned": (
        COMPOSED,
        "its table is yours; tests/test_look.py runs it",
    ),
    "c2srt text data=csv": (COMPOSED, OWN),
    "c2srt relations data=csv": (COMPOSED, OWN),
    "c2srt teacher data=csv": (COMPOSED, OWN),
    "c2srt train data=csv": (COMPOSED, OWN),
    "c2srt evaluate data=csv checkpoint=clip out=runs/csv/clip": (COMPOSED, OWN),
    "c2srt evaluate data=csv": (COMPOSED, OWN),
    "c2srt calibrate data=csv": (COMPOSED, OWN),
    (
        "c2srt predict checkpoint=runs/csv/calibrated images=photos"
        " 'labels=[purple,snow,red,beach]' threshold=auto out=tags.csv"
    ): (COMPOSED, OWN),
    "c2srt train data=csv warm_start=runs/other/train/model out=runs/csv/second": (
        COMPOSED,
        "an export of one's own; tests/test_warm_start.py begins with one",
    ),
    "c2srt shard data=csv data.train=labels.csv data.share=0.2": (COMPOSED, OWN),
    "c2srt relations data=csv graph=none": (COMPOSED, OWN),
    "c2srt train data=csv graph=none model.ist=false": (COMPOSED, OWN),
    "c2srt evaluate data=csv graph=none 'topk=[3,5]'": (COMPOSED, OWN),
    # docs/datasets.md
    "c2srt shard data=coco data.root=/data/coco": (COMPOSED, SET),
    "c2srt text data=coco": (COMPOSED, SET),
    "c2srt relations data=coco": (COMPOSED, SET),
    "c2srt teacher data=coco": (COMPOSED, SET),
    "c2srt evaluate data=coco checkpoint=clip out=runs/coco/clip": (COMPOSED, SET),
    "c2srt train data=coco": (COMPOSED, SET),
    "c2srt evaluate data=coco": (COMPOSED, SET),
    "c2srt shard data=voc data.root=/data/VOCdevkit": (COMPOSED, SET),
    "c2srt shard data=vg256 data.root=/data/vg": (COMPOSED, SET),
    "c2srt shard data=openimages_v7 data.root=/data/oidv7": (COMPOSED, SET),
    "c2srt shard data=coco data.root=/data/coco data.classes=65/15 data.name=coco_65": (
        COMPOSED,
        SET,
    ),
    # prompts
    "c2srt text templates=simple out=runs/miniature/text-simple": (RUN, ""),
    "c2srt train text=runs/miniature/text-simple out=runs/miniature/simple": (RUN, ""),
    "c2srt tune checkpoint=runs/miniature/simple": (RUN, ""),
    "c2srt train model.isr=false model.ist=false out=runs/miniature/plain": (RUN, ""),
    "c2srt messages checkpoint=runs/miniature/plain": (RUN, ""),
    "c2srt evaluate checkpoint=runs/miniature/messages out=runs/miniature/messages/evaluation": (
        RUN,
        "",
    ),
    "c2srt calibrate checkpoint=runs/miniature/train": (RUN, ""),
    "c2srt predict checkpoint=runs/miniature/calibrated images=photo.jpg threshold=auto": (RUN, ""),
    "c2srt evaluate checkpoint=runs/miniature/tuned out=runs/miniature/tuned/evaluation": (RUN, ""),
    "c2srt text 'templates=[\"a drawing of a {}.\"]'": (RUN, ""),
    # tables, baselines, relations of your own
    "c2srt tables train=false": (RUN, ""),
    "c2srt train model=mkt out=runs/miniature/mkt": (RUN, ""),
    "c2srt relations mine data=openimages price_input=0.15 price_output=0.60 budget=20": (STUB, ""),
    "c2srt relations mine 'targets=[Dog,Festival]' …": (STUB, ""),
    (
        "c2srt relations data=openimages "
        "relations_file=runs/openimages/relations/mined/relations.jsonl"
    ): (
        RUN,
        "",
    ),
    (
        "c2srt relations build data=openimages "
        "relations_file=runs/openimages/relations/mined/relations.jsonl"
    ): (
        RUN,
        "",
    ),
    # over a minute
    "c2srt tables 'tables=[parts,graphs]'": (LONG, ""),
    "c2srt train engine.zero=3 engine.offload=true": (LONG, "DeepSpeed compiles an optimizer"),
    "c2srt plan calibrate=true calibration=here.json cluster=cpu …": (LONG, ""),
    "c2srt plan calibration=here.json cluster=cpu …": (LONG, "reads what the last one wrote"),
    "c2srt demo": (LONG, "tests/test_demo.py runs a small one"),
    # the real data set
    (
        "c2srt train data=openimages data.root=/data/openimages workers=8 "
        "resources.gpus_per_worker=1 engine.precision=bf16 loader.workers=4"
    ): (
        COMPOSED,
        FULL,
    ),
    "c2srt train data=openimages data.root=… workers=8 resources.gpus_per_worker=1": (
        COMPOSED,
        FULL,
    ),
    "c2srt text data=openimages data.root=… templates=simple out=runs/openimages/text-simple": (
        COMPOSED,
        FULL,
    ),
    (
        "c2srt train data=openimages data.root=… text=runs/openimages/text-simple "
        "out=runs/openimages/simple"
    ): (
        COMPOSED,
        FULL,
    ),
    (
        "c2srt tune data=openimages data.root=… checkpoint=runs/openimages/simple "
        "out=runs/openimages/tuned"
    ): (
        COMPOSED,
        FULL,
    ),
    (
        "c2srt evaluate data=openimages data.root=… checkpoint=runs/openimages/tuned "
        "out=runs/openimages/tuned/evaluation"
    ): (
        COMPOSED,
        FULL,
    ),
    "c2srt evaluate data=openimages checkpoint=runs/openimages/train/model": (COMPOSED, FULL),
    "c2srt evaluate data=openimages scores=table.parquet out=runs/y": (COMPOSED, TABLE),
    (
        "c2srt evaluate data=openimages data.root=/data/openimages scores=table.parquet out=results"
    ): (COMPOSED, TABLE),
    (
        "c2srt evaluate data=openimages data.root=/data/openimages checkpoint=clip "
        "out=runs/openimages/clip"
    ): (COMPOSED, FULL),
    "c2srt evaluate scores=S.npy labels=L.npy seen=M.npy 'topk=[10,20]' out=results": (
        COMPOSED,
        "another out=… of one above",
    ),
    "c2srt figures data=openimages data.root=…": (COMPOSED, FULL),
    "c2srt figures data=openimages model=runs/openimages/train/model statistics=20000": (
        COMPOSED,
        FULL,
    ),
    "c2srt figures data=miniature": (COMPOSED, "the default; `c2srt figures` is above"),
    "c2srt tables data=openimages data.root=/data/openimages workers=8 gpus_per_worker=1 seeds=3": (
        COMPOSED,
        FULL,
    ),
    ("c2srt tables data=openimages data.root=… 'commands.train=[\"engine.precision=bf16\"]'"): (
        COMPOSED,
        FULL,
    ),
    "c2srt tables data=openimages seeds=3 train=false": (COMPOSED, FULL),
    "c2srt teacher data=openimages shards=… workers=16": (COMPOSED, FULL),
    "c2srt text data=openimages …": (COMPOSED, FULL),
    "c2srt relations data=openimages relations_file=mined.jsonl": (
        COMPOSED,
        "as `relations_file=…` above",
    ),
    "c2srt train model=mkt": (COMPOSED, "into the folder of another training; with out=… above"),
    "c2srt evaluate checkpoint=clip": (COMPOSED, "with out=… above"),
    # the record's own commands
    "c2srt demo 'tables=[parts,graphs,prompts]' seeds=3": (COMPOSED, HOURS),
    "c2srt demo 'tables=[graphs]' seeds=3": (COMPOSED, HOURS),
    "c2srt demo 'tables=[graphs]'": (COMPOSED, HOURS),
    "c2srt demo seeds=3": (COMPOSED, HOURS),
    "c2srt study 'worlds=[0]' 'graphs=[noise-50]'": (COMPOSED, STUDY),
    "c2srt study": (COMPOSED, HOURS),
    "c2srt study part=2/3": (COMPOSED, HOURS),
    "c2srt study 'worlds=[0]' 'graphs=[noise-50]' 'tune=[all]'": (COMPOSED, HOURS),
    "c2srt study 'worlds=[10,11,12,13,14,15,16,17,18,19]' 'graphs=[noise-50]'": (COMPOSED, HOURS),
    ("c2srt study categories=2000 'worlds=[0]' 'graphs=[noise-50-fitted]' work=runs/larger"): (
        COMPOSED,
        HOURS,
    ),
    "c2srt study results=docs/results/noise.json": (COMPOSED, STUDY),
    "python -m c2srt.study.pages README.md docs/results.md": (
        SHELL,
        "writes in the clone; tests/test_study.py fills the same pages and compares",
    ),
    "c2srt tables": (COMPOSED, HOURS),
    "c2srt tables 'tables=[parts]' seeds=3": (COMPOSED, HOURS),
    "c2srt tables 'tables=[settings]'": (COMPOSED, HOURS),
    **{
        f"c2srt tables 'tables=[{names}]' seeds=3 'clips=[[],[],[]]'": (COMPOSED, HOURS)
        for names in ("models", "prompts", "models,parts,time", "neighbours,threshold,distillation")
    },
    **{
        f"c2srt bench {what}": (COMPOSED, BENCH)
        for what in (
            "head",
            "isr",
            "gat",
            "loss",
            "ignore",
            "step",
            "tracking",
            "records",
            "records threads=1 device=cpu",
            "evaluation",
            "evaluation repeats=2 warmup=1",
            "predict",
            "predict threads=1 device=cpu",
            "loader",
            "loader threads=1 device=cpu",
            "packing",
        )
    },
    (
        "c2srt bench tracking clip=runs/miniature/clip/model.json trainable_blocks=null "
        "categories=60 neighbours=4 batch=32"
    ): (
        COMPOSED,
        BENCH,
    ),
    (
        "c2srt bench tracking clip=…/clip/model.json trainable_blocks=null categories=60 "
        "neighbours=4 batch=32"
    ): (
        COMPOSED,
        BENCH,
    ),
    "c2srt plan check=true cluster=cpu": (
        COMPOSED,
        "ten minutes of measuring; tests/test_plan.py checks the parts",
    ),
    "c2srt plan check=true cluster=cpu turns=3": (COMPOSED, "as the one before"),
    "c2srt plan check=true cluster=cpu clock=cpu turns=3": (COMPOSED, "as the one before"),
    # forms
    "c2srt plan calibrate=true calibration=FILE": (COMPOSED, FORM),
    "c2srt train … tracking.name=seed-1 tracking.parent=full": (COMPOSED, FORM),
    "c2srt train … tracking.register=c2srt": (COMPOSED, FORM),
    "c2srt train … model.isr=false model.ist=false": (COMPOSED, FORM),
    "c2srt messages … unseen_neighbours=8 unseen_own=0": (COMPOSED, FORM),
    "c2srt predict … words.neighbours=llm words.price_input=… words.price_output=…": (
        COMPOSED,
        FORM,
    ),
    "c2srt relations mine": (COMPOSED, FORM),
    "c2srt relations report": (COMPOSED, FORM),
    "c2srt relations build …": (COMPOSED, FORM),
    "c2srt <verb> [key=value …]": (SHELL, FORM),
    "c2srt <verb> --help": (SHELL, "`c2srt train --help` is above, tests/test_cli.py runs all"),
    "c2srt bench <what>": (SHELL, FORM),
    "c2srt backbones": (RUN, ""),
    "c2srt backbones named=SigLIP": (RUN, ""),
    # in a store
    **{
        f"c2srt {words}": (SHELL, "needs a bucket; tests/test_store_road.py runs them in one")
        for words in (
            "shard data=openimages data.root=s3://bucket/openimages work=s3://bucket/c2srt"
            " workers=32",
            "train data=openimages data.root=s3://bucket/openimages work=s3://bucket/c2srt"
            " workers=8 resources.gpus_per_worker=1",
            "evaluate data=openimages data.root=s3://bucket/openimages work=s3://bucket/c2srt"
            " workers=8",
        )
    },
    # installing and tests
    "pip install 'c2srt[hub]'": (SHELL, "downloads; .ci/run installs the extra"),
    (
        "python3 -m venv .venv && .venv/bin/pip install -q uv && .venv/bin/uv pip install -q "
        "--system-certs -c constraints.txt -e '.[train,figures]' && .venv/bin/c2srt demo"
    ): (
        SHELL,
        "downloads; .ci/run does it on a clean checkout",
    ),
    (
        "python3 -m venv .venv && .venv/bin/pip install -q uv && .venv/bin/uv pip install -q "
        "--system-certs -c constraints.txt -e '.[test]' && .venv/bin/pytest -n 2 --dist "
        "loadfile"
    ): (
        SHELL,
        "downloads; .ci/run does it on a clean checkout",
    ),
    (
        "python3 -m venv .venv && .venv/bin/pip install -q uv && .venv/bin/uv pip install -q "
        "--system-certs -c constraints.txt -e '.[train,figures]'"
    ): (
        SHELL,
        "downloads; .ci/run does it on a clean checkout",
    ),
    "git clone <this repository> c2srt && cd c2srt": (SHELL, FORM),
    "git config core.symlinks true": (SHELL, "changes the clone that the tests stand in"),
    "uv run --extra train --extra figures c2srt demo": (
        SHELL,
        "downloads the newest of everything",
    ),
    "pip install .": (SHELL, "downloads; tests/test_install.py does the like"),
    "pip install '.[train,figures]'": (SHELL, "downloads; .ci/run does it on a clean checkout"),
    "c2srt init slurm": (RUN, ""),
    "c2srt doctor": (RUN, ""),
    "c2srt doctor json=true": (RUN, ""),
    "c2srt doctor work=/data": (RUN, ""),
    "pytest -m slow": (SHELL, "the tests themselves"),
    "pytest -m long": (SHELL, "the tests themselves"),
    "pytest -m long tests/test_damage.py": (SHELL, "the tests themselves"),
    "C2SRT_SLURM_TESTS=required .venv/bin/pytest -m long -v --durations=0": (
        SHELL,
        "the tests themselves",
    ),
    "C2SRT_CHAOS_TRAININGS=20 pytest -m long -s tests/test_chaos.py": (
        SHELL,
        "the tests themselves",
    ),
    # a GPU
    **{
        f"c2srt check {words}": (COMPOSED, "tests/test_check.py and .ci/run run it")
        for words in (
            *("gpu", "gpu quick", "gpu full", "gpu full 'parts=[launches]'"),
            *("kernels", "kernels full", "keep", "keep out=runs/check"),
        )
    },
    **{
        f"c2srt check cluster{words}": (COMPOSED, "tests/test_check_cluster.py runs it")
        for words in ("", " data=openimages data.root=/data/openimages work=/shared/c2srt")
    },
    **{
        f"python -m c2srt.check gpu {words}": (SHELL, "tests/test_check.py runs it")
        for words in (
            "quick out=runs/check",
            "quick out=runs/check commit=$(git rev-parse --short HEAD)",
            "full out=runs/check commit=$(git rev-parse --short HEAD)",
        )
    },
    "c2srt plan calibration=…": (COMPOSED, FORM),
    "c2srt plan calibration=<date>-<card>": (SHELL, FORM),
    (
        "pip download --no-deps --only-binary=:all: --python-version 3.12 --platform "
        "manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform "
        "manylinux2014_x86_64 -d wheels open_clip_torch ftfy wcwidth simplejpeg pydantic "
        "pydantic-core annotated-types typing-inspection"
    ): (
        SHELL,
        ELSEWHERE,
    ),
    "pip wheel --no-deps -w wheels deepspeed": (SHELL, ELSEWHERE),
    (
        "python -m pip install --no-index --no-deps --target site wheels/*.whl && export "
        "PYTHONPATH=$PWD/site"
    ): (
        SHELL,
        ELSEWHERE,
    ),
    # MLflow, Ray, a language model
    "mlflow ui --backend-store-uri sqlite:///runs/openimages/mlflow.db": (
        SHELL,
        "a server until it is stopped",
    ),
    "mlflow models serve": (SHELL, FORM),
    "mlflow models serve -m models:/c2srt/1 --env-manager local --port 5001": (
        SHELL,
        "tests/test_serving.py serves a model",
    ),
    (
        'printf \'{"inputs": [{"image": "%s"}], "params": {"labels": ["dog", "red car"], '
        '"topk": 5}}\' "$(base64 -w0 dog.jpg)" | curl -s 127.0.0.1:5001/invocations -H '
        "'Content-Type: application/json' -d @-"
    ): (
        SHELL,
        "tests/test_serving.py asks the served model",
    ),
    "export MLFLOW_TRACKING_URI=sqlite:///runs/openimages/mlflow.db": (SHELL, SITE),
    "export OPENAI_API_KEY=… OPENAI_BASE_URL=https://…/v1 OPENAI_MODEL=…": (SHELL, SITE),
    "export RAY_ADDRESS=http://head:8265 RAY_AUTH_MODE=token RAY_AUTH_TOKEN=…": (SHELL, SITE),
    (
        "ray job submit --runtime-env cluster/runtime_env.yaml --working-dir . -- python -m "
        "c2srt.cluster.train data=openimages data.root=/shared/openimages work=/shared/c2srt "
        "workers=16 resources.gpus_per_worker=1"
    ): (
        SHELL,
        "tests/test_ray_jobs.py submits jobs",
    ),
    (
        "ray job submit --runtime-env cluster/runtime_env.yaml --working-dir . -- python -m "
        "c2srt.cluster.check data=openimages data.root=/shared/openimages work=/shared/c2srt"
    ): (SHELL, "tests/test_check_cluster.py checks a Ray cluster; the form is the one above"),
    "ray job logs": (SHELL, ELSEWHERE),
    "ray job stop": (SHELL, "tests/test_ray_jobs.py stops a job"),
    "ray start --head": (SHELL, ELSEWHERE),
    "ray start --block": (SHELL, ELSEWHERE),
    # Slurm
    "slurm/pipeline.sh": (SHELL, SLURM),
    (
        "slurm/pipeline.sh data=miniature work=runs/miniature data.root=runs/miniature/raw -- "
        "engine.precision=fp32 schedule.epochs=1"
    ): (
        SHELL,
        SLURM,
    ),
    (
        'SHARD="--nodes=4 --cpus-per-task=32" TRAIN="--nodes=4 --cpus-per-task=48" '
        "slurm/pipeline.sh graph=llm -- schedule.epochs=8 schedule.batch=512"
    ): (
        SHELL,
        SLURM,
    ),
    "squeue --me": (SHELL, ELSEWHERE),
    "tail -f slurm/logs/c2srt-train-<job>.log": (SHELL, ELSEWHERE),
    "ssh -L 8265:127.0.0.1:<port> <first node>": (SHELL, ELSEWHERE),
    "srun --jobid=<job> --overlap --nodes=1 cat /tmp/r<job>/token": (SHELL, SLURM),
    "scancel --signal=USR1 --batch <job>": (SHELL, SLURM),
    **{
        f"slurm/submit.sh {line}": (SHELL, SLURM)
        for line in (
            "--nodes=2 slurm/openimages.sh",
            "--nodes=4 slurm/openimages.sh",
            "--no-kill --nodes=5 slurm/openimages.sh workers=16",
            "--array=0-4 slurm/openimages.sh",
            (
                "--nodes=2 slurm/openimages.sh data=miniature work=runs/miniature "
                "engine.precision=fp32 out=runs/miniature/slurm"
            ),
            "slurm/openimages.sh data=miniature work=runs/miniature engine.precision=fp32",
            "--nodes=2 slurm/openimages.sh schedule=paper out=runs/openimages/paper",
            "--nodes=2 slurm/openimages.sh schedule.epochs=4 out=runs/openimages/short",
            "--nodes=4 --cpus-per-task=48 slurm/openimages.sh engine.zero=2 "
            "out=runs/openimages/zero2",
            "--array=1-6 slurm/openimages.sh --rows slurm/ablations.txt",
            "--array=0-4 slurm/openimages.sh 'teacher=${work}/teacher/seed-${seed}'",
            "--nodes=2 --cpus-per-task=32 slurm/shard.sh",
            "--nodes=4 slurm/check.sh",
            "slurm/text.sh",
            "slurm/relations.sh",
            "slurm/relations.sh graph=random",
            "slurm/relations.sh graph=similarity",
            "slurm/teacher.sh",
            "--array=0-4 slurm/teacher.sh",
            "slurm/evaluate.sh",
            "slurm/evaluate.sh checkpoint=clip out=runs/openimages/clip",
            "--array=0-4 slurm/evaluate.sh",
            "--array=0-4 --dependency=aftercorr:<that job> slurm/evaluate.sh",
            (
                "--array=1-6 --dependency=aftercorr:<that job> slurm/evaluate.sh --rows"
                " slurm/ablations.txt"
            ),
            "--nodes=1 slurm/tables.sh",
            "--array=1-8 slurm/tables.sh",
            "--array=1-8 slurm/tables.sh seeds=3",
            "--nodes=2 --cpus-per-task=32 slurm/shard.sh key=value …",
        )
    },
    **{
        f"export {setting}": (SHELL, SITE)
        for setting in (
            "SBATCH_PARTITION=gpu",
            "SBATCH_ACCOUNT=my-project",
            "SBATCH_QOS=normal",
            "SBATCH_GPUS_PER_NODE=4",
            "SBATCH_TIMELIMIT=24:00:00",
            'C2SRT_RUN="apptainer exec --nv --bind /data /containers/c2srt.sif"',
            "C2SRT_INTERFACE=ib0",
            "GLOO_SOCKET_IFNAME=ib0 NCCL_SOCKET_IFNAME=ib0",
            "C2SRT_CPU_WORKERS=2",
            "C2SRT_MAX_REQUEUES=20",
            "C2SRT_SAVE_SECONDS=240",
            "C2SRT_JOIN_SECONDS=180",
            "SBATCH_CPUS_PER_GPU=12",
            "SBATCH_MEM_PER_GPU=64G",
            'C2SRT_CPU_OPTIONS="--cpus-per-task=32 --mem-per-cpu=2G"',
            "C2SRT_CHECK_SECONDS=0",
            "C2SRT_DASHBOARD_HOST=127.0.0.1",
            "MLFLOW_TRACKING_URI=http://…",
        )
    },
}

SAME = "the same line runs as a documented command"
NEXT = "tests/test_commands.py follows the road by these"
TRAINS = "a whole training; tests/test_commands.py reads it from a real message and composes it"

PRINTED: dict[str, tuple[str, str]] = {
    "Command('check')": (COMPOSED, "tests/test_check.py and .ci/run run it"),
    "shell('mlflow', 'experiments', 'restore', '-x', found.experiment_id)": (
        SHELL,
        "tests/test_tracking_stores.py deletes an experiment",
    ),
    "Command('backbones')": (RUN, ""),
    "typed('backbones', [])": (RUN, ""),
    "typed('backbones', ['named=SigLIP'])": (RUN, ""),
    "flag(None, '--help')": (RUN, ""),
    "flag(verb, '--cfg job')": (RUN, ""),
    "flag('relations-mine', '--help')": (RUN, ""),
    "Command('shard')": (RUN, ""),
    "Command('audit')": (RUN, ""),
    "Command('text')": (RUN, ""),
    "Command('relations')": (RUN, ""),
    "Command('relations', graph='llm')": (RUN, ""),
    "Command('relations', graph=kind)": (RUN, ""),
    "Command('relations', graph=folder.name)": (RUN, ""),
    "Command('relations', neighbours=neighbours)": (RUN, ""),
    "Command('relations', graph=made_from['kind'], neighbours=max(k, made_from['neighbours']))": (
        RUN,
        "",
    ),
    "Command('relations', relations_file=out / RELATIONS)": (STUB, ""),
    "Command('relations-mine')": (STUB, ""),
    "Command('relations-mine', budget=2 * config.budget)": (STUB, ""),
    "Command('teacher')": (RUN, ""),
    "Command('train')": (COMPOSED, SAME),
    "Command('train', 'model.isr=false', out=folder.parent)": (COMPOSED, TRAINS),
    "Command('train', 'model=mkt', out=inputs.work / 'mkt/seed-0')": (COMPOSED, TRAINS),
    "Command('train', values={'model': self.model.kind, 'schedule.steps': 20})": (
        COMPOSED,
        TRAINS,
    ),
    "Command(verb, *overrides, out=training)": (COMPOSED, TRAINS),
    "Command('export')": (RUN, ""),
    "Command('export', checkpoint=training, out=training / 'model')": (RUN, ""),
    "Command('evaluate')": (RUN, ""),
    "Command('evaluate', checkpoint=model or folder.parent / 'model', out=folder)": (RUN, ""),
    "Command('evaluate', checkpoint=config.checkpoint, out=Path(config.out) / 'before')": (RUN, ""),
    "Command('tune')": (COMPOSED, SAME),
    "Command('study')": (COMPOSED, STUDY),
    "Command('messages')": (COMPOSED, SAME),
    "Command('calibrate')": (COMPOSED, SAME),
    "Command('tune', template=exported.templates[0])": (COMPOSED, SAME),
    "Command('plan', calibrate=True)": (COMPOSED, "measures for minutes; a documented one is long"),
    "Command('figures', work=workspace.work)": (RUN, ""),
    "Command('predict', values=own)": (RUN, ""),
    "Command('demo', pretrain=True)": (COMPOSED, "minutes; tests/test_demo.py pre-trains small"),
    "Command('demo')": (
        COMPOSED,
        "the road again; tests/test_demo.py runs a small one, and its last lines",
    ),
    "Command('tables')": (COMPOSED, TRAINS),
    "Command('tables', part=None)": (COMPOSED, TRAINS),
    "Command('tables', train=None)": (COMPOSED, TRAINS),
    "Command('tables', train=None, part=None)": (COMPOSED, TRAINS),
    (
        "Command('tables', tables=[name], values={} if folder == inputs.work / 'tables' else "
        "{'out': folder})"
    ): (
        COMPOSED,
        TRAINS,
    ),
    "typed(command.verb, command.overrides)": (COMPOSED, "what the runner is about to run itself"),
    "shell('mlflow', 'ui', '--backend-store-uri', uri, '--port', '5000')": (
        SHELL,
        "a server until it is stopped",
    ),
    "Command(following, *chosen, values={key: config.out} if key and is_typed('out') else None)": (
        COMPOSED,
        NEXT,
    ),
    (
        "Command('evaluate', values={'checkpoint': f'{config.out}/model' if verb == 'train' "
        "else config.out, 'out': f'{config.out}/evaluation'} if own else None)"
    ): (
        COMPOSED,
        NEXT,
    ),
    "Command('figures', values={kind.figures: config.checkpoint})": (COMPOSED, NEXT),
    "Command('train', *trained_with(config))": (COMPOSED, NEXT),
}

BY_HAND = {
    "c2srt/bench/tracking.py: `mlflow server` did not start: see": "a name",
    "c2srt/command.py: usage: c2srt <verb> [key=value …] [--help | --cfg job]": "a form",
    (
        "c2srt/command.py: `c2srt <verb> --help` explains a verb's keys; run a command again to "
        "resume it."
    ): ("a form"),
    "c2srt/code.py: c2srt": "what runs on a node, with its version",
    "c2srt/command.py: c2srt": "the start of an error's line",
    "c2srt/workflow.py: c2srt": "the start of the first line",
    "c2srt/check/__main__.py: c2srt check:": "the start of an error's line",
    "c2srt/interrupts.py: c2srt": "the start of an error's line",
    "c2srt/surroundings.py: , and c2srt has a package of that name: leave": "a name",
    "c2srt/demo/raw.py: c2srt demo": "the author of the drawn pictures",
    (
        "c2srt/model/config.py: model.baseline is set, but model.kind=c2srt has nothing of "
        "it: take a baseline, such as model=mkt"
    ): ("a key"),
    (
        "cluster/slurm/keys.py: --rows needs a file, and an array: sbatch --array=1-5 "
        "slurm/openimages.sh --rows slurm/ablations.txt"
    ): ("documented"),
    "cluster/slurm/requeue.py: ; submit the same line to go on": "words",
    "cluster/slurm/requeue.py: ); submit the same line to go on": "words",
    "cluster/launch.py: inside a Slurm job: python -m c2srt.cluster.launch": (
        "a form, for whoever calls the launcher by hand"
    ),
}
"""Texts that name a program without c2srt/hints.py, and why they may."""
