package cli

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/shopmonkeyus/eds/internal/snapshot"
)

// display returns an observer that shows the progress of an import, and what
// ends it: bars on a terminal, a line every few seconds elsewhere.
func (im *importer) display() (snapshot.Observer, func()) {
	switch {
	case im.watch != nil:
		return im.watch()
	case im.o.Silent:
		return nil, func() {}
	case isTerminal(im.p.Stderr):
		b := newBars(im.p.Stderr)
		return b.observe, b.finish
	default:
		l := &progressLines{w: im.p.Stderr, what: first(im.what, "import"), began: time.Now()}
		return l.observe, func() {}
	}
}

// progressLines writes a line every few seconds, and one for each table that fails.
type progressLines struct {
	w           io.Writer
	what        string // that makes progress
	began, told time.Time
}

// lineEvery is how often a line of progress is written.
const lineEvery = 5 * time.Second

func (l *progressLines) observe(p snapshot.Progress, t snapshot.Totals) {
	if p.Phase == snapshot.Failed {
		fmt.Fprintf(l.w, "%s: table %s failed: %v\n", l.what, p.Table, p.Err)
	}
	now := time.Now()
	if now.Sub(l.told) < lineEvery && t.Done+t.Failed < t.Tables {
		return
	}
	l.told = now
	elapsed := now.Sub(l.began).Seconds()
	fmt.Fprintf(l.w, "%s: %d of %d tables, %d rows (%.0f rows/s), %s of %s%s\n", l.what,
		t.Done, t.Tables, t.Rows, float64(t.Rows)/max(elapsed, 0.001), size(t.Bytes), size(t.TotalBytes), remaining(t, elapsed))
}

func remaining(t snapshot.Totals, elapsed float64) string {
	if t.Bytes <= 0 || t.TotalBytes <= t.Bytes {
		return ""
	}
	left := time.Duration(elapsed * float64(t.TotalBytes-t.Bytes) / float64(t.Bytes) * float64(time.Second))
	return fmt.Sprintf(", %v left", left.Round(time.Second))
}

// size writes a number of bytes for people.
func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}

// bars draws a bar for each table under way and one for the whole.
type bars struct {
	progress *mpb.Progress
	began    time.Time

	mu     sync.Mutex
	whole  *mpb.Bar
	totals snapshot.Totals
	tables map[string]*tableBar
}

type tableBar struct {
	bar *mpb.Bar
	now snapshot.Progress
}

func newBars(w io.Writer) *bars {
	b := &bars{
		progress: mpb.New(mpb.WithOutput(w), mpb.WithWidth(48), mpb.WithRefreshRate(150*time.Millisecond)),
		began:    time.Now(), tables: make(map[string]*tableBar),
	}
	b.whole = b.progress.New(0, barStyle(),
		mpb.BarPriority(1<<30),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return fmt.Sprintf("%-22s", "all tables") })),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
			t := b.present()
			elapsed := time.Since(b.began).Seconds()
			return fmt.Sprintf(" %d/%d tables %11d rows %8.0f rows/s %10s%s", t.Done, t.Tables, t.Rows, float64(t.Rows)/max(elapsed, 0.001), size(t.Bytes), remaining(t, elapsed))
		})))
	return b
}

func barStyle() mpb.BarFillerBuilder {
	return mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]")
}

func (b *bars) present() snapshot.Totals {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.totals
}

func (b *bars) observe(p snapshot.Progress, t snapshot.Totals) {
	b.mu.Lock()
	b.totals = t
	bar := b.tables[p.Table]
	if bar == nil && p.Phase >= snapshot.Loading {
		bar = b.add(p.Table)
	}
	if bar != nil {
		bar.now = p
	}
	b.mu.Unlock()

	b.whole.SetTotal(t.TotalBytes, false)
	b.whole.SetCurrent(t.Bytes)
	if bar == nil {
		return
	}
	bar.bar.SetTotal(p.TotalBytes, false)
	bar.bar.SetCurrent(p.Bytes)
	switch p.Phase {
	case snapshot.Done:
		bar.bar.SetTotal(-1, true)
	case snapshot.Failed:
		bar.bar.Abort(false)
	}
}

// add begins a table's bar. The lock is held.
func (b *bars) add(table string) *tableBar {
	t := new(tableBar)
	b.tables[table] = t
	t.bar = b.progress.New(0, barStyle(), mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return fmt.Sprintf("%-22.22s", table) })),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
			b.mu.Lock()
			defer b.mu.Unlock()
			return fmt.Sprintf(" %-9s %11d rows %10s", t.now.Phase, t.now.Rows, size(t.now.Bytes))
		})))
	return t
}

// finish draws the last state and gives the terminal back.
func (b *bars) finish() {
	b.mu.Lock()
	for _, t := range b.tables {
		if !t.bar.Completed() {
			t.bar.Abort(false)
		}
	}
	b.mu.Unlock()
	b.whole.SetTotal(-1, true)
	b.progress.Wait()
}
