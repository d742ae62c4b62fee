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

// childBacklog names the backlog that a child process carries, to be measured.
const childBacklog = "EDS_TEST_PIPELINE_BACKLOG"

// backlog is messages that take far more memory once they are decompressed.
type backlog struct {
	messages int  // as many
	text     int  // bytes, of each once it is decompressed, to a KiB
	wide     bool // the rows have millions of members, else a long value
	letters  int  // how many can't be applied
}

func backlogs() map[string]backlog {
	return map[string]backlog{
		"12 of 250 MB":     {messages: 12, text: 250 << 20, letters: 12},
		"8 of 60 MB":       {messages: 8, text: 60 << 20},
		"60 of 8 MB":       {messages: 60, text: 8 << 20},
		"500 of just 1 MB": {messages: 500, text: 1 << 20},
		"a wide row":       {messages: 1, text: 60 << 20, wide: true},
	}
}

// zipped returns the payload of each message, of the content-encoding gzip/json.
func (b backlog) zipped() []byte {
	head, part, tail := `{"operation":"UPDATE","id":"e","table":"a","modelVersion":"v1","after":{"id":"1","v":"`, strings.Repeat("0", 1<<10), `"}}`
	if b.wide { // of members that the table lacks
		head, part, tail = strings.TrimSuffix(head, `,"v":"`), strings.Repeat(`,"x":1  `, 1<<7), `}}`
	}
	parts := (b.text - 1) >> 10
	return slices.Concat(
		zip(head+strings.Repeat(part, parts&1023)),
		bytes.Repeat(zip(strings.Repeat(part, 1<<10)), parts>>10), // which takes no time to make
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

// mostMemory is what the heap of a pipeline may take, in MB, whatever the stream
// holds: the budget and a message of the largest size beyond it, what is being
// decompressed, and as much again that is not collected yet.
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

// child carries the named backlog to a sink that keeps nothing.
func child(name string) int {
	if err := carry(backlogs()[name]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Print(m.HeapSys >> 20) // never less than the heap has been
	return 0
}

func carry(b backlog) error {
	dir, err := os.MkdirTemp("", "eds-test-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s := newStream(make([]string, b.messages)...)
	data := b.zipped()
	for i := range s.messages {
		s.messages[i].Data, s.messages[i].Encoding = data, "gzip/json"
	}
	r, err := newRig(dir, s, newTable())
	if err != nil {
		return err
	}
	r.config.Sink = &void{}
	if err := r.start(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.ended)
	defer cancel()
	err = cmp.Or(s.await(ctx, uint64(b.messages)), r.stop())
	got, listErr := letters(r.dead)
	if err == nil && len(got) != b.letters {
		err = fmt.Errorf("%d dead letters, want %d: %s", len(got), b.letters, r.logs)
	}
	return errors.Join(err, listErr)
}

// TestDecode_AdmitsLargeMessagesInAnyArrangement would hang if a message that the
// next batch needs waited for memory that later messages hold.
func TestDecode_AdmitsLargeMessagesInAnyArrangement(t *testing.T) {
	const encoding = "gzip/json"
	large, medium := backlog{text: 1200 << 10}.zipped(), backlog{text: 400 << 10}.zipped()
	broken := large[:len(large)/2]
	for _, run := range []int{1, 7, 40} {
		for _, decoders := range []int{1, 4} {
			for _, room := range []int{1, 2 << 20, 6 << 20} {
				for _, recorded := range [][]uint64{nil, {15, 37}} {
					if recorded != nil && room < 6<<20 {
						continue // two batches have to fit
					}
					t.Run(fmt.Sprint(run, decoders, room, recorded), func(t *testing.T) {
						inBubble(t, make([]string, 40), func(t *testing.T, r *rig) {
							r.stream.run = func() int { return run }
							for i := range r.stream.messages {
								m := &r.stream.messages[i]
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
							r.config.Decoders, r.config.Budget, r.config.MaxBytes = decoders, pipeline.NewBudget(room), 3<<20
							r.config.Ends = recorded
							var down atomic.Bool
							down.Store(true)
							r.table.before = func(int, *change.Batch) error {
								if down.Load() {
									return errors.New("connection refused")
								}
								return nil
							}
							r.mustStart(t)
							time.Sleep(time.Hour)
							synctest.Wait()
							down.Store(false)
							if err := r.stream.await(t.Context(), 40); err != nil {
								t.Fatal(err)
							}
							synctest.Wait()
							equal(t, "", r.table.complaint)
							equal(t, 8, len(r.mustLetters(t)))
							equal(t, 24+8, sum(r.table.sizes))
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
	large := backlog{text: 2 << 20}.zipped()
	inBubble(t, make([]string, 12), func(t *testing.T, r *rig) {
		for i := range r.stream.messages {
			r.stream.messages[i].Data, r.stream.messages[i].Encoding = large, "gzip/json"
		}
		r.config.Budget, r.config.MaxBytes = pipeline.NewBudget(1), 1
		var down atomic.Bool
		down.Store(true)
		r.table.before = func(int, *change.Batch) error {
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
		r.mustStop(t) // with what a batch held
		if n := r.stream.settled.Sequence; n == 0 || n == 12 {
			t.Errorf("%d messages are settled", n)
		}
		if err := r.start(); err != nil { // and the rest comes again
			t.Fatal(err)
		}
		if err := r.stream.await(t.Context(), 12); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDecode_DeadLettersATooLargeMessageAsItCame(t *testing.T) {
	const encoding = "gzip/json"
	bomb := backlog{text: 65 << 20}.zipped()
	inBubble(t, []string{put("b", "1", "x"), "", put("b", "3", "x")}, func(t *testing.T, r *rig) {
		r.stream.messages[1].Data, r.stream.messages[1].Encoding = bomb, encoding
		r.stream.messages[1].Subject = "dbchange.a.UPDATE.company.location.PUBLIC.x"
		r.mustStart(t)
		if err := r.stream.await(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		equal(t, []string{"2 a decode: the message is larger than 64 MiB of json, unknown"}, r.mustLetters(t))
		all, err := letters(r.dead)
		if err != nil {
			t.Fatal(err)
		}
		e, err := r.dead.Show(all[0].ID)
		if err != nil || !bytes.Equal(e.Payload, bomb) || e.Encoding != encoding || e.Operation != "UPDATE" {
			t.Errorf("the letter holds %d bytes of %d as %q, %v", len(e.Payload), len(bomb), e.Encoding, err)
		}
		r.mustStop(t)
		r.mustStart(t) // it is settled, and does not come again
		synctest.Wait()
		equal(t, 2, len(r.table.snapshot()))
		equal(t, 1, len(r.mustLetters(t)))
	})
}
