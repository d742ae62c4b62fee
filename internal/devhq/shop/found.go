package shop

import (
	"slices"
	"time"
)

// history is how far back the records of a new shop go.
const history = 400 * 24 * time.Hour

// found fills an empty model with a shop that has been at work for a while:
// what is there before the first change is published.
func (m *model) found(now time.Time) {
	begin := now.Add(-history)
	elapsed := time.Duration(0)
	st := &step{pen: newPen(), m: m, clock: func() time.Time { return begin.Add(elapsed) }}
	st.begin()
	st.foundCompanies()
	st.foundStock()
	st.foundCustomers()

	all := actions()
	steps := 16 * m.customers
	for range steps {
		elapsed += history / time.Duration(steps+1)
		st.begin()
		st.work(all)
	}
	m.seq = 0
	m.clock.Logical, m.clock.Wall = 0, now.UnixNano()
}

// foundCompanies makes the companies, their locations, and who works there.
func (st *step) foundCompanies() {
	for i := range 3 {
		st.company = hex24(st.m.seed, "company", uint64(i))
		st.location = ""
		st.insert("company", str("id", st.company))
		for range 2 + i%2 {
			// The location's own rows name it as their location.
			st.location = hex24(st.m.seed, "location", st.table("location").next)
			st.insert("location", str("id", st.location))
			for range 4 {
				st.insert("user")
			}
		}
		st.location = ""
		st.insert("user", raw("role", `"Owner"`))
		for range 6 {
			st.insert("vendor")
		}
	}
}

// foundStock fills the shelves: the locations share part numbers, so that only
// the whole key tells two rows apart.
func (st *step) foundStock() {
	numbers := partNumbers(40 + st.m.customers/10)
	for i := range st.table("location").rows {
		st.at(st.read(st.table("location"), i))
		for _, n := range numbers {
			if !st.percent(80) {
				continue
			}
			v, _ := st.any("vendor")
			st.insert("inventory_part", str("id", n), str("vendorId", v.key()))
		}
	}
}

// partNumbers returns n different part numbers, of characters that catalogues
// really use; some differ in case or accent alone.
func partNumbers(n int) []string {
	numbers := []string{
		"OIL-5W30/1qt", "oil-5w30/1qt", "BRK 300mm \"F\"", "O'Ring 3/4", "ÖLF-76", "OLF-76", "ブレーキ-001", "100%-SYN", "A_B.C", "A\\B", "#10×1.5", "007", "7", "7.0", "Ø76+", "e\u0301-1", "é-1",
	}
	p := newPen()
	p.dip(1, 1, time.Time{})
	for len(numbers) < n {
		s := string(pattern("@@@-####")(p, nil))
		if s = s[1 : len(s)-1]; !slices.Contains(numbers, s) {
			numbers = append(numbers, s)
		}
	}
	return numbers[:n]
}

func (st *step) foundCustomers() {
	for range st.m.customers {
		location, _ := st.any("location")
		st.newCustomer(location)
	}
}
