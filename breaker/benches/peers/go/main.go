// The measures of main.rs for sony/gobreaker, local and distributed, as its users run it: one breaker object with a
// store of its own per instance. Prints one JSON object.
//
// Usage: peers REDIS-SOCKET. Version 2.1.0 is the last whose Redis store is part of the module.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

type breaker = gobreaker.DistributedCircuitBreaker[int]

var errUpstream = errors.New("upstream")

func instance(socket, name string, settings gobreaker.Settings) *breaker {
	settings.Name = name
	made, err := gobreaker.NewDistributedCircuitBreaker[int](gobreaker.NewRedisStore(socket), settings)
	if err != nil {
		fmt.Fprintln(os.Stderr, "gobreaker:", err)
		os.Exit(1)
	}
	return made
}

func fleet(socket, name string, size int, settings gobreaker.Settings) []*breaker {
	made := make([]*breaker, size)
	for i := range made {
		made[i] = instance(socket, name, settings)
	}
	return made
}

func never(gobreaker.Counts) bool { return false }

func ok() (int, error) { return 0, nil }

func fail() (int, error) { return 0, errUpstream }

func perCall(count int, call func()) float64 {
	start := time.Now()
	for range count {
		call()
	}
	return float64(time.Since(start).Nanoseconds()) / float64(count)
}

// median of several turns.
func median(turns, count int, call func()) float64 {
	var each []float64
	for range turns {
		each = append(each, perCall(count, call))
	}
	sort.Float64s(each)
	return each[turns/2]
}

// throughput of four instances with eight callers each and an upstream that takes 200 ms.
func throughput(socket string) float64 {
	const lasts = 3 * time.Second
	var done atomic.Int64
	var all sync.WaitGroup
	end := time.Now().Add(lasts)
	for _, member := range fleet(socket, "fleet", 4, gobreaker.Settings{ReadyToTrip: never}) {
		for range 8 {
			all.Go(func() {
				for time.Now().Before(end) {
					_, err := member.Execute(func() (int, error) {
						time.Sleep(200 * time.Millisecond)
						return 0, nil
					})
					if err == nil && time.Now().Before(end) {
						done.Add(1)
					}
				}
			})
		}
	}
	all.Wait()
	return float64(done.Load()) / lasts.Seconds()
}

// propagation: milliseconds from the tripping call's end until each instance, called every 10 ms, rejects.
func propagation(socket string, size int) []float64 {
	settings := gobreaker.Settings{
		Timeout:     time.Minute,
		ReadyToTrip: func(counts gobreaker.Counts) bool { return counts.TotalFailures >= 1 },
	}
	members := fleet(socket, fmt.Sprint("propagation-", size), size, settings)
	_, _ = members[0].Execute(fail)
	tripped := time.Now()
	limit := tripped.Add(20 * time.Second)
	delays := make([]float64, size)
	var all sync.WaitGroup
	for i, member := range members {
		all.Go(func() {
			for {
				_, err := member.Execute(ok)
				if errors.Is(err, gobreaker.ErrOpenState) || time.Now().After(limit) {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			delays[i] = float64(time.Since(tripped).Microseconds()) / 1000
		})
	}
	all.Wait()
	sort.Float64s(delays)
	return []float64{delays[(size-1)/2], delays[(size-1)*99/100]}
}

// counted: of 4 × 250 failures, those the shared state holds.
func counted(socket string) float64 {
	members := fleet(socket, "counted", 4, gobreaker.Settings{ReadyToTrip: never})
	var all sync.WaitGroup
	for _, member := range members {
		all.Go(func() {
			for range 250 {
				_, _ = member.Execute(fail)
			}
		})
	}
	all.Wait()
	_, _ = members[0].State()
	return float64(members[0].Counts().TotalFailures)
}

// probes: of 16 instances that call at once when the wait is over, those let through before the first verdict.
func probes(socket string) float64 {
	settings := gobreaker.Settings{
		Timeout:     time.Second,
		ReadyToTrip: func(counts gobreaker.Counts) bool { return counts.TotalFailures >= 1 },
	}
	members := fleet(socket, "probes", 16, settings)
	_, _ = members[0].Execute(fail)
	time.Sleep(1100 * time.Millisecond)
	var started, verdict atomic.Int64
	var all sync.WaitGroup
	for _, member := range members {
		all.Go(func() {
			_, _ = member.Execute(func() (int, error) {
				if verdict.Load() == 0 {
					started.Add(1)
				}
				time.Sleep(300 * time.Millisecond)
				verdict.Store(1)
				return 0, nil
			})
		})
	}
	all.Wait()
	return float64(started.Load())
}

func main() {
	socket := os.Args[1]
	local := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{})
	shared := instance(socket, "closed", gobreaker.Settings{ReadyToTrip: never})
	result := map[string]any{
		"local_ns":        median(21, 100_000, func() { _, _ = local.Execute(ok) }),
		"closed_ns":       median(11, 100, func() { _, _ = shared.Execute(ok) }),
		"calls_per_s":     throughput(socket),
		"propagation_10":  propagation(socket, 10),
		"propagation_100": propagation(socket, 100),
		"counted":         counted(socket),
		"probes":          probes(socket),
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		os.Exit(1)
	}
}
