package snapshot

import (
	"sync"
	"time"
)

// Phase is a phase in the import of one table.
type Phase uint8

const (
	Waiting   Phase = iota + 1 // waiting for HQ to export the table
	Queued                     // exported, and waiting until other tables are loaded
	Loading                    // downloading the table's files and loading their rows
	Finishing                  // putting the loaded rows in place
	Done
	Failed
)

func (p Phase) String() string {
	return [...]string{"", "waiting", "queued", "loading", "finishing", "done", "failed"}[p]
}

// TableProgress is the progress of the import of one table.
type TableProgress struct {
	Table      string
	Phase      Phase
	Rows       int64
	Bytes      int64 // compressed bytes of files whose rows are loaded
	Downloaded int64 // compressed bytes that were downloaded
	// TotalBytes is the compressed size of all files. It is an estimate until the size of each file
	// is known, and 0 while no size is known.
	TotalBytes int64
	Files      int // number of loaded files
	TotalFiles int
	Err        error // set if the table failed
}

func (p TableProgress) unsized() bool {
	return p.Phase > 0 && p.Phase < Finishing && p.TotalBytes == 0
}

// Totals are the sums of the progress of all tables.
type Totals struct {
	Tables, Done, Failed int
	Rows                 int64
	Bytes, Downloaded    int64
	TotalBytes           int64
	// Unsized is the number of tables in progress whose size is unknown. TotalBytes does not
	// include these tables.
	Unsized int
}

// Observer is called with the progress of a table at each change of phase, and within a phase up to
// ten times per second. Calls are serial and block the import.
type Observer func(TableProgress, Totals)

// observeInterval is the minimum time between two reports of a table's progress within a phase.
const observeInterval = 100 * time.Millisecond

// progressTracker adds up the progress of all tables.
type progressTracker struct {
	observe Observer

	mu     sync.Mutex
	tables map[string]*tableProgress
	totals Totals
}

// tableProgress is the progress of one table. It is safe for concurrent use.
type tableProgress struct {
	tracker  *progressTracker
	now      TableProgress
	sizes    map[string]int64 // known sizes of files, in bytes
	have     map[string]int64 // downloaded bytes of files
	files    map[string]bool  // loaded files
	observed time.Time
	watch    *stallWatch // notified of progress; nil if there is none
}

func newTracker(o Observer) *progressTracker {
	if o == nil {
		o = func(TableProgress, Totals) {}
	}
	return &progressTracker{observe: o, tables: make(map[string]*tableProgress)}
}

// table returns the progress of a table. If the table is new, it is added in the phase Waiting.
func (t *progressTracker) table(name string) *tableProgress {
	t.expect(name)
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tables[name]
}

// expect adds tables in the phase Waiting. It adds all tables to the totals before it reports the
// first table.
func (t *progressTracker) expect(names ...string) {
	var added []*tableProgress
	t.mu.Lock()
	for _, name := range names {
		if t.tables[name] != nil {
			continue
		}
		p := &tableProgress{
			tracker: t, now: TableProgress{Table: name},
			sizes: make(map[string]int64), have: make(map[string]int64), files: make(map[string]bool),
		}
		t.tables[name] = p
		added = append(added, p)
	}
	t.totals.Tables += len(added)
	t.mu.Unlock()
	for _, p := range added {
		p.phase(Waiting)
	}
}

// change applies f to the progress, and reports the result if observeInterval has passed since the
// last report. If atOnce is set, change always reports the result.
func (p *tableProgress) change(atOnce bool, f func(*TableProgress)) {
	t := p.tracker
	t.mu.Lock()
	defer t.mu.Unlock()
	before := p.now
	f(&p.now)
	if p.now.Rows > before.Rows || p.now.Downloaded > before.Downloaded || p.now.Files > before.Files {
		p.watch.progress()
	}
	if p.now.Downloaded > before.Downloaded {
		for _, other := range t.tables {
			other.watch.downloaded()
		}
	}
	p.now.TotalBytes = p.estimate()
	t.totals.Rows += p.now.Rows - before.Rows
	t.totals.Bytes += p.now.Bytes - before.Bytes
	t.totals.Downloaded += p.now.Downloaded - before.Downloaded
	t.totals.TotalBytes += p.now.TotalBytes - before.TotalBytes
	t.totals.Unsized += count(p.now.unsized()) - count(before.unsized())
	t.totals.Done += count(p.now.Phase == Done) - count(before.Phase == Done)
	t.totals.Failed += count(p.now.Phase == Failed) - count(before.Phase == Failed)
	now := time.Now()
	if atOnce || now.Sub(p.observed) >= observeInterval {
		p.observed = now
		t.observe(p.now, t.totals)
	}
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// estimate returns the total size of all files, in bytes. For files of unknown size, it uses the
// mean of the known sizes. If no size is known, it returns 0.
func (p *tableProgress) estimate() int64 {
	if len(p.sizes) == 0 {
		return 0
	}
	var sum int64
	for _, n := range p.sizes {
		sum += n
	}
	if unknown := int64(p.now.TotalFiles - len(p.sizes)); unknown > 0 {
		sum += sum / int64(len(p.sizes)) * unknown
	}
	return sum
}

// setWatch sets the watch that is notified of new rows and bytes. If w is nil, no watch is
// notified.
func (p *tableProgress) setWatch(w *stallWatch) {
	p.change(false, func(*TableProgress) { p.watch = w })
}

func (p *tableProgress) phase(to Phase) {
	p.change(true, func(now *TableProgress) { now.Phase = to })
}

func (p *tableProgress) fail(err error) {
	p.change(true, func(now *TableProgress) { now.Phase, now.Err = Failed, err })
}

func (p *tableProgress) expect(files int) {
	p.change(true, func(now *TableProgress) { now.TotalFiles = files })
}

// setSize records the size of a file.
func (p *tableProgress) setSize(file string, n int64) {
	p.change(false, func(*TableProgress) { p.sizes[file] = n })
}

// setDownloaded records the number of downloaded bytes of a file.
func (p *tableProgress) setDownloaded(file string, n int64) {
	p.change(false, func(now *TableProgress) {
		now.Downloaded += n - p.have[file]
		p.have[file] = n
	})
}

// addRows adds the given numbers of loaded rows and compressed bytes, which may be negative.
func (p *tableProgress) addRows(rows, bytes int64) {
	p.change(false, func(now *TableProgress) { now.Rows, now.Bytes = now.Rows+rows, now.Bytes+bytes })
}

// setLoaded records that a file is loaded. The caller has already added its rows and bytes.
func (p *tableProgress) setLoaded(file string) {
	p.change(true, func(now *TableProgress) {
		if !p.files[file] {
			p.files[file] = true
			now.Files++
		}
	})
}
