package pipeline_test

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/pipeline"
)

// childBacklog names the backlog that a child process applies while its memory is measured.
const childBacklog = "EDS_TEST_PIPELINE_BACKLOG"

// compressedBacklog is a stream of messages that need far more memory after decompression.
type compressedBacklog struct {
	messages    int
	text        int  // bytes of each message after decompression, to a KiB
	wide        bool // the rows have millions of members, else a long value
	deadLetters int  // how many messages cannot be applied
}

func backlogs() map[string]compressedBacklog {
	return map[string]compressedBacklog{
		"12 of 250 MB":     {messages: 12, text: 250 << 20, deadLetters: 12},
		"8 of 60 MB":       {messages: 8, text: 60 << 20},
		"60 of 8 MB":       {messages: 60, text: 8 << 20},
		"500 of just 1 MB": {messages: 500, text: 1 << 20},
		"a wide row":       {messages: 1, text: 60 << 20, wide: true},
	}
}

// zipped returns the payload of each message, with the content-encoding gzip/json.
func (b compressedBacklog) zipped() []byte {
	head := `{"operation":"UPDATE","id":"e","table":"a","modelVersion":"v1","after":{"id":"1","v":"`
	part, tail := strings.Repeat("0", 1<<10), `"}}`
	if b.wide { // with members that the table lacks
		head, part, tail = strings.TrimSuffix(head, `,"v":"`), strings.Repeat(`,"x":1  `, 1<<7), `}}`
	}
	parts := (b.text - 1) >> 10
	return slices.Concat(
		zip(head+strings.Repeat(part, parts&1023)),
		bytes.Repeat(zip(strings.Repeat(part, 1<<10)), parts>>10), // cheap to make
		zip(tail),
	)
}

// zip returns text as one gzip member.
func zip(text string) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = io.WriteString(z, text) // into memory
	_ = z.Close()
	return out.Bytes()
}

// mostMemory is the limit for the heap of a pipeline, in MB, for any stream: the budget, a message
// of the maximum size, the buffers of decompression, and the same again for garbage.
const mostMemory = 320

func TestDecode_BoundsTheMemoryOfABacklog(t *testing.T) {
	for name := range backlogs() {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), childBacklog+"="+name)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v\n%s", err, stderr.String())
			}
			if took, err := strconv.Atoi(string(out)); err != nil || took > mostMemory {
				t.Errorf("it took %s MB, more than %d MB", out, mostMemory)
			}
		})
	}
}

// child applies the named backlog to a sink that keeps nothing.
func child(name string) int {
	if err := runBacklog(backlogs()[name]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Print(m.HeapSys >> 20) // never less than the heap has been
	return 0
}

func runBacklog(b compressedBacklog) error {
	dir, err := os.MkdirTemp("", "eds-test-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s := newMemorySource(make([]string, b.messages)...)
	data := b.zipped()
	for i := range s.messages {
		s.messages[i].Data, s.messages[i].Encoding = data, "gzip/json"
	}
	r, err := newRig(dir, s, newMemorySink())
	if err != nil {
		return err
	}
	r.config.Sink = &discardSink{}
	if err := r.start(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.ended)
	defer cancel()
	err = cmp.Or(s.await(ctx, uint64(b.messages)), r.stop())
	got, listErr := deadLetters(r.dead)
	if err == nil && len(got) != b.deadLetters {
		err = fmt.Errorf("%d dead letters, want %d: %s", len(got), b.deadLetters, r.logs)
	}
	return errors.Join(err, listErr)
}

// TestDecode_AdmitsLargeMessagesInAnyArrangement would hang if a message that the next batch needs
// waited for memory of later messages.
func TestDecode_AdmitsLargeMessagesInAnyArrangement(t *testing.T) {
	const encoding = "gzip/json"
	large, medium := compressedBacklog{text: 1200 << 10}.zipped(), compressedBacklog{text: 400 << 10}.zipped()
	broken := large[:len(large)/2]
	for _, run := range []int{1, 7, 40} {
		for _, decoders := range []int{1, 4} {
			for _, limit := range []int{1, 2 << 20, 6 << 20} {
				for _, recorded := range [][]uint64{nil, {15, 37}} {
					if recorded != nil && limit < 6<<20 {
						continue // two batches have to fit
					}
					t.Run(fmt.Sprint(run, decoders, limit, recorded), func(t *testing.T) {
						inBubble(t, make([]string, 40), func(t *testing.T, r *rig) {
							r.source.run = func() int { return run }
							for i := range r.source.messages {
								m := &r.source.messages[i]
								switch i % 5 {
								case 0, 1:
									m.Data, m.Encoding = large, encoding
								case 2:
									m.Data, m.Encoding = medium, encoding
								case 3:
									m.Data = []byte(put("b", fmt.Sprint(i), "x"))
								case 4:
									m.Data, m.Encoding = broken, encoding
								}
							}
							r.config.Decoders, r.config.Budget, r.config.MaxBytes = decoders, pipeline.NewBudget(limit), 3<<20
							r.config.BatchBoundaries = recorded
							var down atomic.Bool
							down.Store(true)
							r.sink.before = func(int, *change.Batch) error {
								if down.Load() {
									return errors.New("connection refused")
								}
								return nil
							}
							r.mustStart(t)
							time.Sleep(time.Hour)
							synctest.Wait()
							down.Store(false)
							if err := r.source.await(t.Context(), 40); err != nil {
								t.Fatal(err)
							}
							synctest.Wait()
							equal(t, "", r.sink.violation)
							equal(t, 8, len(r.mustDeadLetters(t)))
							equal(t, 24+8, sum(r.sink.sizes))
							equal(t, 0, r.Status().InFlight)
							r.mustStop(t)
						})
					})
				}
			}
		}
	}
}

func sum(all []int) int {
	n := 0
	for _, v := range all {
		n += v
	}
	return n
}

func TestDecode_StopsWhileALargeMessageWaits(t *testing.T) {
	large := compressedBacklog{text: 2 << 20}.zipped()
	inBubble(t, make([]string, 12), func(t *testing.T, r *rig) {
		for i := range r.source.messages {
			r.source.messages[i].Data, r.source.messages[i].Encoding = large, "gzip/json"
		}
		r.config.Budget, r.config.MaxBytes = pipeline.NewBudget(1), 1
		var down atomic.Bool
		down.Store(true)
		r.sink.before = func(int, *change.Batch) error {
			if down.Load() {
				return errors.New("connection refused")
			}
			return nil
		}
		r.mustStart(t)
		time.Sleep(time.Minute)
		r.soft()
		time.Sleep(time.Minute)
		down.Store(false)
		r.mustStop(t) // applies the open batch
		if n := r.source.acknowledged.Sequence; n == 0 || n == 12 {
			t.Errorf("%d messages are acknowledged", n)
		}
		if err := r.start(); err != nil { // the rest comes again
			t.Fatal(err)
		}
		if err := r.source.await(t.Context(), 12); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDecode_DeadLettersATooLargeMessageUnchanged(t *testing.T) {
	const encoding = "gzip/json"
	bomb := compressedBacklog{text: 65 << 20}.zipped()
	inBubble(t, []string{put("b", "1", "x"), "", put("b", "3", "x")}, func(t *testing.T, r *rig) {
		r.source.messages[1].Data, r.source.messages[1].Encoding = bomb, encoding
		r.source.messages[1].Subject = "dbchange.a.UPDATE.company.location.PUBLIC.x"
		r.mustStart(t)
		if err := r.source.await(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		equal(t, []string{"2 a decode: the message is larger than 64 MiB of json, unknown"}, r.mustDeadLetters(t))
		all, err := deadLetters(r.dead)
		if err != nil {
			t.Fatal(err)
		}
		e, err := r.dead.Show(all[0].ID)
		if err != nil || !bytes.Equal(e.Payload, bomb) || e.Encoding != encoding || e.Operation != "UPDATE" {
			t.Errorf("the dead letter has %d bytes of %d as %q, %v", len(e.Payload), len(bomb), e.Encoding, err)
		}
		r.mustStop(t)
		r.mustStart(t) // the message is acknowledged and does not come again
		synctest.Wait()
		equal(t, 2, len(r.sink.snapshot()))
		equal(t, 1, len(r.mustDeadLetters(t)))
	})
}
