//! The dashboard: what people read of a daemon, and the few things that they do there.
//!
//! Pages are made here, whole: they can be read without a script. What stands on them is what the
//! daemon knows already; what only repositories know is read by commands of this program, beside the
//! pages and kept for a while.
//!
//! | file | for |
//! |---|---|
//! | `html` | markup that is escaped by its type |
//! | `words` | English and Chinese, spans, sizes |
//! | `request` | what a browser asks, and what it gets |
//! | `session` | who is logged in |
//! | `finder` | what is read from repositories, and kept |
//! | `site` | which page an address is, login, forms |
//! | `page` | what every page has |
//! | `standing`, `catalogue` | how each source stands; the backups that there are |
//! | `overview` | is anything wrong, since when, what is to be done |
//! | `runs`, `run` | the runs, and one of them |
//! | `timeline` | a day or a week of them as bars |
//! | `calendar`, `backup` | a month of recovery points, and one backup |
//! | `jobs` | the jobs, and beginning one |
//! | `playbooks`, `playbook_run` | the playbooks; where a run of one stands, and agreeing to it |
//! | `drills`, `drill` | the drills and what they prove of which source; one of them |
//! | `coverage` | what was proven of which source |
//! | `growth` | what the repositories hold and will hold |

mod backup;
mod calendar;
mod catalogue;
mod coverage;
mod drill;
mod drills;
mod finder;
mod growth;
mod html;
mod jobs;
mod overview;
mod page;
mod playbook_run;
mod playbooks;
pub mod request;
mod run;
mod runs;
mod session;
pub mod site;
mod standing;
mod timeline;
mod words;
