"""The measures of main.rs for pybreaker with its Redis storage and for interlock, as their users run them: one breaker
object with a connection of its own per instance. Prints one JSON object per library, by name.

Usage: peers.py REDIS-SOCKET
"""

import json
import statistics
import sys
import threading
import time

import interlock
import interlock.integrations.redis
import pybreaker
import redis

SOCKET = sys.argv[1]


class Trouble(Exception):
    """The upstream's."""


def fine():
    return 0


def fail():
    raise Trouble


class Pybreaker:
    def __init__(self, name, wait=60.0, trips=True):
        storage = pybreaker.CircuitRedisStorage(
            pybreaker.STATE_CLOSED, redis.Redis(unix_socket_path=SOCKET), namespace=name
        )
        self.breaker = pybreaker.CircuitBreaker(
            fail_max=1 if trips else 10**9, reset_timeout=wait, state_storage=storage
        )

    def call(self, work):
        """True: done, False: rejected, None: failed."""
        before = []
        try:
            self.breaker.call(lambda: (before.append(1), work()))
            return True
        except pybreaker.CircuitBreakerError:
            return None if before else False
        except Trouble:
            return None

    def counted(self):
        return self.breaker.fail_counter


class Interlock:
    def __init__(self, name, wait=60.0, trips=True):
        config = interlock.Config(
            failure_rate_threshold=1.0,
            minimum_number_of_calls=1 if trips else 10**9,
            window_size=1_000,
            wait_duration_in_open=wait,
            permitted_calls_in_half_open=1,
        )
        storage = interlock.integrations.redis.RedisStorage(redis.Redis(unix_socket_path=SOCKET))
        self.breaker = interlock.CircuitBreaker(name=name, config=config, storage=storage)

    def call(self, work):
        try:
            self.breaker.call(work)
            return True
        except interlock.CircuitOpenError:
            return False
        except Trouble:
            return None

    def counted(self):
        return self.breaker.snapshot().failed_calls


def together(works):
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def closed_ns(library):
    breaker = library("closed", trips=False)
    turns = []
    for _ in range(11):
        start = time.perf_counter_ns()
        for _ in range(200):
            breaker.call(fine)
        turns.append((time.perf_counter_ns() - start) / 200)
    return statistics.median(turns)


def throughput(library):
    """Of four instances with eight callers each and an upstream that takes 200 ms."""
    lasts, done, end = 3.0, [], time.monotonic() + 3.0

    def caller(breaker):
        def work():
            while time.monotonic() < end:
                if breaker.call(lambda: time.sleep(0.2)) and time.monotonic() < end:
                    done.append(1)

        return work

    fleet = [library("fleet", trips=False) for _ in range(4)]
    together([caller(breaker) for breaker in fleet for _ in range(8)])
    return len(done) / lasts


def propagation(library, size):
    """Milliseconds from the tripping call's end until each instance, called every 10 ms, rejects."""
    fleet = [library(f"propagation-{size}") for _ in range(size)]
    for breaker in fleet[1:]:
        # A first call starts what runs in the background.
        breaker.call(fine)
    fleet[0].call(fail)
    tripped, delays = time.monotonic(), []

    def watcher(breaker):
        def work():
            while breaker.call(fine) is not False and time.monotonic() < tripped + 20:
                time.sleep(0.01)
            delays.append((time.monotonic() - tripped) * 1e3)

        return work

    together([watcher(breaker) for breaker in fleet])
    delays.sort()
    return [delays[(size - 1) // 2], delays[(size - 1) * 99 // 100]]


def counted(library):
    """Of 4 × 250 failures, those that one instance judges by."""
    fleet = [library("counted", trips=False) for _ in range(4)]
    together([lambda breaker=breaker: [breaker.call(fail) for _ in range(250)] for breaker in fleet])
    return fleet[0].counted()


def probes(library):
    """Of 16 instances that call at once when the wait is over, those let through before the first verdict."""
    # Both libraries round: to a second, to the next poll.
    fleet = [library("probes", wait=3.0) for _ in range(16)]
    for breaker in fleet[1:]:
        breaker.call(fine)
    fleet[0].call(fail)
    started, verdict = [], []
    time.sleep(5)

    def probe():
        if not verdict:
            started.append(1)
        time.sleep(0.3)
        verdict.append(1)

    together([lambda breaker=breaker: breaker.call(probe) for breaker in fleet])
    return len(started)


def measure(library):
    return {
        "closed_ns": closed_ns(library),
        "calls_per_s": throughput(library),
        "propagation_10": propagation(library, 10),
        "propagation_100": propagation(library, 100),
        "counted": counted(library),
        "probes": probes(library),
    }


print(json.dumps({"pybreaker": measure(Pybreaker), "interlock": measure(Interlock)}))
