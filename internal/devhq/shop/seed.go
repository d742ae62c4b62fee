package shop

import (
	"slices"
	"time"
)

// seedPeriod is how long a new shop has already been working.
const seedPeriod = 400 * 24 * time.Hour

// seedShop fills an empty model with the rows of a shop that has been working for seedPeriod.
// These rows exist before the first published change.
func (m *model) seedShop(now time.Time) {
	begin := now.Add(-seedPeriod)
	elapsed := time.Duration(0)
	st := &step{generator: newGenerator(), m: m, clock: func() time.Time { return begin.Add(elapsed) }}
	st.begin()
	st.seedCompanies()
	st.seedStock()
	st.seedCustomers()

	all := actions()
	steps := 16 * m.customers
	for range steps {
		elapsed += seedPeriod / time.Duration(steps+1)
		st.begin()
		st.work(all)
	}
	m.seq = 0
	m.clock.Logical, m.clock.Wall = 0, now.UnixNano()
}

// seedCompanies adds the companies, with their locations, users and vendors.
func (st *step) seedCompanies() {
	for i := range 3 {
		st.company = hex24(st.m.seed, "company", uint64(i))
		st.location = ""
		st.insert("company", str("id", st.company))
		for range 2 + i%2 {
			// A location's own row has the location's id as its locationId.
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

// seedStock adds the parts in stock. Part numbers occur at several locations, so only the whole
// primary key identifies a row.
func (st *step) seedStock() {
	numbers := partNumbers(40 + st.m.customers/10)
	for i := range st.table("location").rows {
		st.actAt(st.read(st.table("location"), i))
		for _, n := range numbers {
			if !st.percent(80) {
				continue
			}
			v, _ := st.any("vendor")
			st.insert("inventory_part", str("id", n), str("vendorId", v.key()))
		}
	}
}

// partNumbers returns n different part numbers, with characters that occur in real catalogues.
// Some part numbers differ only in case or accents.
func partNumbers(n int) []string {
	numbers := []string{
		"OIL-5W30/1qt", "oil-5w30/1qt", "BRK 300mm \"F\"", "O'Ring 3/4", "ÖLF-76", "OLF-76", "ブレーキ-001", "100%-SYN", "A_B.C", "A\\B",
		"#10×1.5", "007", "7", "7.0", "Ø76+", "e\u0301-1", "é-1",
	}
	g := newGenerator()
	g.reseed(1, 1, time.Time{})
	for len(numbers) < n {
		s := string(pattern("@@@-####")(g, nil))
		if s = s[1 : len(s)-1]; !slices.Contains(numbers, s) {
			numbers = append(numbers, s)
		}
	}
	return numbers[:n]
}

func (st *step) seedCustomers() {
	for range st.m.customers {
		location, _ := st.any("location")
		st.newCustomer(location)
	}
}
