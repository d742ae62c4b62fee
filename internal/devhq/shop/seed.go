package shop

import (
	"slices"
	"time"
)

// seedPeriod is the time that a new shop has been at work for.
const seedPeriod = 400 * 24 * time.Hour

// seedShop fills an empty model with the rows of a shop that has been at work for a while. They
// exist before the first change is published.
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

// seedCompanies adds the companies, their locations and their users.
func (st *step) seedCompanies() {
	for i := range 3 {
		st.company = hex24(st.m.seed, "company", uint64(i))
		st.location = ""
		st.insert("company", str("id", st.company))
		for range 2 + i%2 {
			// The row of a location has its own id as locationId.
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

// seedStock adds the parts in stock. Locations share part numbers, so only the whole key
// distinguishes two rows.
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

// partNumbers returns n different part numbers with characters that real catalogues use. Some differ
// only in case or accent.
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
