package shop

// common returns the columns that every table starts with, followed by the table's own columns.
func common(own ...generatedColumn) []generatedColumn {
	columns := []generatedColumn{
		text("id", nil),
		text("companyId", companyID).managed(),
		text("locationId", locationID).managed().nullable(),
		date("createdDate", present).managed(),
		date("updatedDate", present).managed().nullable(),
	}
	return append(columns, own...)
}

// These are the order statuses that the model acts on.
const (
	statusEstimate = "Estimate"
	statusApproved = "Approved"
	statusProgress = "InProgress"
	statusInvoiced = "Invoiced"
	statusPaid     = "Paid"
)

const orderTable = "order"

// firstLayouts returns the first layout of each table, before any evolution.
func firstLayouts() []*rowLayout {
	id := []string{"id"}
	return []*rowLayout{
		newRowLayout("company", "Company", definition{primaryKey: id}, companyColumns()),
		newRowLayout("location", "Location", definition{primaryKey: id}, locationColumns()),
		newRowLayout("user", "User", definition{primaryKey: id}, userColumns()),
		newRowLayout("vendor", "Vendor", definition{primaryKey: id, omitNulls: true}, vendorColumns()),
		newRowLayout("inventory_part", "InventoryPart", definition{primaryKey: []string{"locationId", "id"}}, inventoryColumns()),
		newRowLayout("customer", "Customer", definition{primaryKey: id}, customerColumns()),
		newRowLayout("vehicle", "Vehicle", definition{primaryKey: id, parent: "customerId", companyKey: true}, vehicleColumns()),
		newRowLayout("appointment", "Appointment", definition{primaryKey: id}, appointmentColumns()),
		newRowLayout(orderTable, "RepairOrder", definition{primaryKey: id, companyKey: true}, orderColumns()),
		newRowLayout("service", "Service", definition{primaryKey: id, parent: "orderId"}, serviceColumns()),
		newRowLayout("labor", "Labor", definition{primaryKey: id, parent: "orderId"}, laborColumns()),
		newRowLayout("part", "Part", definition{primaryKey: id, parent: "orderId"}, partColumns()),
		newRowLayout("time_entry", "TimeEntry", definition{primaryKey: []string{"orderId", "id"}, parent: "orderId"}, timeEntryColumns()),
		newRowLayout("payment", "Payment", definition{primaryKey: id, parent: "orderId"}, paymentColumns()),
		newRowLayout("message", "Message", definition{primaryKey: id, omitNulls: true}, messageColumns()),
		newRowLayout("purchase_order", "PurchaseOrder", definition{primaryKey: id}, purchaseColumns()),
	}
}

func companyColumns() []generatedColumn {
	return common(
		text("name", oneOf(firms...)),
		text("taxId", pattern("##-#######")).null(10),
		enum("plan", "Basic", "Clever", "Genius"),
		text("currency", oneOf("USD", "EUR", "JPY")),
		object("settings", settings),
		array("features", "string", list(4, oneOf(tags...))),
		counter("revision", "0").withComment("counts the changes of the row"),
		boolean("active", 100),
	)
}

func locationColumns() []generatedColumn {
	return common(
		text("name", oneOf(cities...)),
		text("address", address),
		text("phone", pattern("+1 (###) ###-####")),
		text("timeZone", oneOf("America/Denver", "Europe/Berlin", "Asia/Tokyo", "UTC")),
		number("latitude", decimal(-90, 90, 7)),
		number("longitude", precise(-180, 180)),
		counter("nextOrderNumber", "1000"),
		counter("openOrders", "0"),
		counter("revenueCents", "0").withComment("of paid orders, ever"),
		number("taxRate", decimal(0, 0.12, 4)),
		object("openingHours", settings).null(10),
		array("bays", "integer", list(8, between(1, 20))),
		date("lastActivityDate", present).null(5),
	)
}

func userColumns() []generatedColumn {
	return common(
		text("firstName", firstName),
		text("lastName", lastName),
		text("email", email),
		enum("role", "Owner", "ServiceWriter", "Technician", "Accountant"),
		integer("rateCents", between(2_000, 20_000)),
		boolean("active", 95),
		date("hiredDate", years(1995, 2025)),
		date("lastLoginDate", present).null(30),
		array("certifications", "string", list(3, oneOf("ASE A1", "ASE A8", "EV-II", "Gasfachmann"))),
		object("preferences", settings).null(20),
		text("avatarUrl", pattern("https://img.example.com/u/########.png")).null(50).asDeprecated(),
	)
}

func vendorColumns() []generatedColumn {
	return common(
		text("name", oneOf(firms...)),
		text("accountNumber", pattern("@@-######")),
		text("phone", pattern("###.###.####")).null(30),
		text("website", pattern("https://vendor-####.example.com/?q=a&b=%20")).null(50),
		number("discount", precise(0, 1)),
		counter("openPurchaseOrders", "0"),
		integer("ledger", anyInteger).withComment("sum of all movements, in millionths"),
		boolean("preferred", 20).null(10),
		date("contractEndDate", years(2026, 2055)).null(40),
		object("terms", settings).null(30),
	)
}

func inventoryColumns() []generatedColumn {
	columns := common(
		text("name", oneOf(partNames...)),
		text("brand", oneOf(brands...)).null(10),
		text("vendorId", nil).nullable(),
		integer("quantity", between(20, 200)),
		counter("reserved", "0"),
		integer("minimum", between(5, 20)),
		integer("costCents", between(50, 50_000)),
		integer("retailCents", between(100, 100_000)),
		number("weight", decimal(0.01, 40, 3)),
		counter("movements", "0").withComment("counts every use and delivery"),
		boolean("taxable", 90),
		array("fits", "string", list(4, oneOf(models...))),
		object("attributes", settings).null(30),
		date("lastCountDate", around(90, 0)).null(30),
		text("bin", pattern("@-##-#")).null(20),
	)
	columns[2] = text("locationId", locationID).managed()
	return columns
}

func vehicleColumns() []generatedColumn {
	return common(
		text("customerId", nil),
		text("vin", pattern("1@#@@##@#@@######")),
		text("make", oneOf(makes...)),
		text("model", oneOf(models...)),
		integer("year", between(1948, 2027)),
		text("color", oneOf(colors...)).null(15),
		text("licensePlate", pattern("@@@ ####")).null(10),
		text("licensePlateState", oneOf("CO", "CA", "NY", "BY", "ÎLE")).null(30),
		integer("odometer", between(0, 400_000)).null(5),
		enum("odometerUnit", "mi", "km"),
		enum("fuel", "Gasoline", "Diesel", "Electric", "Hybrid", "Other").null(5),
		number("engineLiters", decimal(0.6, 8.4, 1)).null(10),
		integer("serial", anyInteger),
		boolean("fleet", 10),
		date("purchasedDate", years(1948, 2026)).null(40),
		date("warrantyEndDate", years(2020, 2048)).null(40),
		object("specs", settings).null(20),
		array("photos", "object", list(2, photo)).null(30),
		text("notes", longRemark(400, 20_000)).null(50),
	)
}

func appointmentColumns() []generatedColumn {
	return common(
		text("customerId", nil),
		text("vehicleId", nil).nullable(),
		text("orderId", nil).nullable(),
		enum("status", "Booked", "Confirmed", "Arrived", "NoShow", "Cancelled"),
		text("title", oneOf(works...)),
		text("note", remark).null(40),
		date("startDate", around(0, 30)),
		date("endDate", around(30, 31)),
		integer("minutes", between(15, 480)),
		flagged("reminderSent"),
		boolean("allDay", 5),
		counter("rescheduled", "0"),
		text("color", oneOf("#ff0000", "#00ff00", "#0000ff")).null(30),
	)
}

func messageColumns() []generatedColumn {
	return common(
		text("customerId", nil),
		text("orderId", nil).nullable(),
		text("body", longRemark(150, 60_000)),
		enum("channel", "sms", "email", "call", "note"),
		enum("status", "Draft", "Queued", "Sent", "Delivered", "Read", "Failed").managed(),
		boolean("inbound", 40),
		date("sentDate", nil).nullable(),
		date("readDate", nil).nullable(),
		integer("segments", between(1, 9)),
		array("attachments", "object", list(1, photo)).null(70),
		object("provider", settings).null(40),
		text("error", remark).null(90),
	)
}

func purchaseColumns() []generatedColumn {
	return common(
		text("vendorId", nil),
		integer("number", nil),
		enum("status", "Draft", "Ordered", "Received", "Cancelled").managed(),
		array("lines", "object", nil),
		integer("totalCents", nil),
		date("orderedDate", present),
		date("receivedDate", nil).nullable(),
		text("note", remark).null(60),
		boolean("rush", 10),
	)
}
