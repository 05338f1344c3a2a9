//! Calendar arithmetic for the real-time clock: proleptic Gregorian, years 0 to 9999.

/// A moment as the clock's registers name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DateTime {
    pub second: u8,
    pub minute: u8,
    pub hour: u8,
    /// 1 is Sunday. It counts on its own, as in the chip.
    pub weekday: u8,
    /// 1 to 31.
    pub day: u8,
    /// 1 to 12.
    pub month: u8,
    pub year: u32,
}

const DAY: u64 = 86_400;
/// Days of 400 years.
const ERA: u64 = 146_097;

/// Days from March 1st, 400 years before year 0 (with a year that starts in March, the leap day comes last).
fn days_from_civil(year: u32, month: u8, day: u8) -> u64 {
    let (month, day) = (u64::from(month), u64::from(day));
    let year = u64::from(year) + 400 - u64::from(month <= 2);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year
}

fn civil_from_days(days: u64) -> (u32, u8, u8) {
    let era = days / ERA;
    let day_of_era = days % ERA;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / (ERA - 1)) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = (era * 400 + year_of_era + u64::from(month <= 2)).saturating_sub(400);
    (year as u32, month as u8, day as u8)
}

impl DateTime {
    /// The moment `seconds` after 1970-01-01 00:00:00 UTC.
    pub(crate) fn from_unix(seconds: u64) -> Self {
        let days = seconds / DAY;
        let epoch = Self { second: 0, minute: 0, hour: 0, weekday: 5, day: 1, month: 1, year: 1970 };
        // Far futures wrap with the registers' four digits.
        epoch.plus_seconds((days % (ERA * 25)) * DAY + seconds % DAY)
    }

    /// The same moment with every field in its range.
    pub(crate) fn normalized(self) -> Self {
        Self {
            second: self.second.min(59),
            minute: self.minute.min(59),
            hour: self.hour.min(23),
            weekday: self.weekday.clamp(1, 7),
            day: self.day.clamp(1, 31),
            month: self.month.clamp(1, 12),
            year: self.year.min(9999),
        }
    }

    /// Seconds since midnight.
    pub(crate) fn second_of_day(self) -> u64 {
        u64::from(self.hour) * 3600 + u64::from(self.minute) * 60 + u64::from(self.second)
    }

    /// The moment `seconds` later.
    pub(crate) fn plus_seconds(self, seconds: u64) -> Self {
        let from = self.normalized();
        let start = days_from_civil(from.year, from.month, from.day) * DAY + from.second_of_day();
        let end = start.saturating_add(seconds);
        let days = end / DAY - start / DAY;
        let (year, month, day) = civil_from_days(end / DAY);
        Self {
            second: (end % 60) as u8,
            minute: (end / 60 % 60) as u8,
            hour: (end / 3600 % 24) as u8,
            weekday: ((u64::from(from.weekday) - 1 + days % 7) % 7 + 1) as u8,
            day,
            month,
            year: year % 10_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        assert_eq!(days_from_civil(1970, 1, 1), 719_468 + ERA);
        for (unix, expected) in [
            (0, (1970, 1, 1, 5, 0)),
            (951_782_400, (2000, 2, 29, 3, 0)),
            (1_709_164_798, (2024, 2, 28, 4, 23)),
            (4_107_542_400, (2100, 3, 1, 2, 0)),
        ] {
            let time = DateTime::from_unix(unix);
            assert_eq!((time.year, time.month, time.day, time.weekday, time.hour), expected);
        }
    }

    #[test]
    fn days_and_dates_are_inverse() {
        for days in (ERA..4_000_000).step_by(97) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
        for (month, last) in [(1, 31), (2, 28), (3, 31), (4, 30), (11, 30), (12, 31)] {
            let (_, after, day) = civil_from_days(days_from_civil(2023, month, last) + 1);
            assert_eq!((after, day), (month % 12 + 1, 1));
        }
    }
}
