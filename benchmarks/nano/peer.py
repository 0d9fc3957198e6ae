"""Run in the peers' environment: `python peer.py NAME` answers each line of JSON with one. Knows nothing of this project.

Each peer steps agents that do nothing, or move by x += v * 1e-3, in the way its documentation shows, and says ns
of CPU an agent and step.
"""

import importlib.metadata
import json
import sys
import time


def timed(steps, agents, run):
    began = time.thread_time_ns()
    run()
    return {"ns": (time.thread_time_ns() - began) / (steps * agents)}


def numba():
    import numba
    import numpy as np

    @numba.njit(fastmath=False)
    def move(x, v):
        for i in range(x.shape[0]):
            x[i] += v[i] * 1e-3

    @numba.njit(fastmath=False)
    def moves(x, v, passes):
        for _ in range(passes):
            move(x, v)

    @numba.njit(fastmath=False, parallel=True)
    def grind(x):
        for i in numba.prange(x.shape[0]):
            value = x[i]
            for _ in range(50):
                value = value * 0.999 + 0.5 / (1.0 + value * value)
            x[i] = value

    columns = {}

    def answer(question):
        n, passes = question["agents"], question["passes"]
        if n not in columns:
            columns[n] = np.zeros(n), np.linspace(-1.0, 1.0, n)
            moves(*columns[n], 1)
            move(*columns[n])
        x, v = columns[n]
        if "threads" in question:  # on the wall's clock: what several threads take together is not the question
            numba.set_num_threads(min(question["threads"], numba.config.NUMBA_NUM_THREADS))
            grind(x)
            began = time.perf_counter_ns()
            for _ in range(passes):
                grind(x)
            return {"ns": (time.perf_counter_ns() - began) / (passes * n)}
        if question["called"] == "once":
            return timed(passes, n, lambda: moves(x, v, passes))

        def each():
            for _ in range(passes):
                move(x, v)

        return timed(passes, n, each)

    return "numba", answer


def mesa():
    import mesa

    class Nothing(mesa.Agent):
        def tick(self):
            pass

    models = {}

    def answer(question):
        n, steps = question["agents"], question["passes"]
        if n not in models:
            models[n] = model = mesa.Model()
            for _ in range(n):
                Nothing(model)
        agents = models[n].agents

        def run():
            for _ in range(steps):
                agents.do("tick")

        return timed(steps, n, run)

    return "mesa", answer


def agentpy():
    import agentpy

    class Nothing(agentpy.Agent):
        def tick(self):
            pass

    lists = {}

    def answer(question):
        n, steps = question["agents"], question["passes"]
        if n not in lists:
            lists[n] = agentpy.AgentList(agentpy.Model(), n, Nothing)
        agents = lists[n]

        def run():
            for _ in range(steps):
                agents.tick()

        return timed(steps, n, run)

    return "agentpy", answer


def mesa_frames():
    import mesa_frames
    import numpy as np
    import polars

    early = not hasattr(
        mesa_frames, "AgentSet"
    )  # 0.1.0a0, the one that PyPI has, names things otherwise than its repository

    class Movers(mesa_frames.AgentSetPolars if early else mesa_frames.AgentSet):
        def __init__(self, model, n):
            super().__init__(model)
            columns = {"x": np.zeros(n), "v": np.linspace(-1.0, 1.0, n)}
            self += polars.DataFrame({"unique_id": np.arange(n), **columns} if early else columns)

        def step(self):
            self["x"] = self["x"] + self["v"] * 1e-3

    models = {}

    def made(n):
        model = mesa_frames.ModelDF() if early else mesa_frames.Model()
        if early:
            model.agents += Movers(model, n)
            return model.agents
        model.sets += Movers(model, n)
        return model.sets

    def answer(question):
        n, steps = question["agents"], question["passes"]
        if n not in models:
            models[n] = made(n)
        agents = models[n]

        def run():
            for _ in range(steps):
                agents.do("step")

        return timed(steps, n, run)

    return "mesa-frames", answer


def simpy():
    import simpy

    def nothing(env):
        while True:
            yield env.timeout(1)

    worlds = {}

    def answer(question):
        n, steps = question["agents"], question["passes"]
        if n not in worlds:
            worlds[n] = env = simpy.Environment()
            for _ in range(n):
                env.process(nothing(env))
            env.run(until=1.5)
        env = worlds[n]
        return timed(steps, n, lambda: env.run(until=env.now + steps))

    return "simpy", answer


def asyncio_uvloop():
    import asyncio

    import uvloop

    async def nothing(steps):
        for _ in range(steps):
            await asyncio.sleep(0)

    def answer(question):
        n, steps = question["agents"], question["passes"]

        async def main():
            tasks = [asyncio.ensure_future(nothing(steps)) for _ in range(n)]
            began = time.thread_time_ns()
            await asyncio.gather(*tasks)
            return {"ns": (time.thread_time_ns() - began) / (steps * n)}

        return uvloop.run(main())

    return "uvloop", answer


PEERS = {each.__name__: each for each in (numba, mesa, agentpy, mesa_frames, simpy, asyncio_uvloop)}


def main():
    said = sys.stdout
    sys.stdout = sys.stderr
    try:
        package, answer = PEERS[sys.argv[1]]()
    except Exception as error:
        print(json.dumps({"missing": f"{type(error).__name__}: {error}"[:200]}), file=said, flush=True)
        return
    print(json.dumps({"version": importlib.metadata.version(package)}), file=said, flush=True)
    for question in sys.stdin:
        try:
            found = answer(json.loads(question))
        except Exception as error:
            found = {"missing": f"{type(error).__name__}: {error}"[:200]}
        print(json.dumps(found), file=said, flush=True)


if __name__ == "__main__":
    main()
